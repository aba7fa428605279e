// Overlaps of a chain
// Repeats that this chain shares with others, with the share of such repeats in the control. Needs: trails overlaps.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 50 | rows at most
// returns overlap: string, id
// returns kind: string, exact, masked, near or skeleton
// returns text: string
// returns n_tokens: integer, tokens (steps for a skeleton)
// returns n_chains: integer, chains that share it
// returns first: integer, first token position in this chain (step for a skeleton)
// returns stop: integer, one past the last
// returns coverage: float, 0..1, share of the corpus covered by this kind
// returns control: float, 0..1, the same share in the control
// returns control_name: string
MATCH (found:Overlap)-[:IN]->(:Chain {id: $chain})
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.kind AS kind, found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope
WITH kind, collect(scope)[0] AS scope
MATCH (o:Overlap {scope: scope})-[i:IN]->(c:Chain {id: $chain})
RETURN o.id AS overlap, o.kind AS kind, o.text AS text, o.n_tokens AS n_tokens, o.n_chains AS n_chains,
       i.first AS first, i.stop AS stop, o.coverage AS coverage, o.control AS control, o.control_name AS control_name
ORDER BY n_tokens DESC, first, overlap
LIMIT $limit

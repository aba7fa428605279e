// Largest overlaps
// Repeats by the tokens that dropping all but one occurrence would save, with the control. Needs: trails overlaps.
// $kind: string := "exact" | exact, masked, near or skeleton
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 50 | rows at most
// returns overlap: string, id
// returns text: string
// returns n_tokens: integer, tokens (steps for a skeleton)
// returns n_chains: integer, chains that share it
// returns saved: integer, tokens in all but one of the chains
// returns coverage: float, 0..1, share of the corpus covered by this kind
// returns control: float, 0..1, the same share in the control
// returns control_name: string
MATCH (found:Overlap {kind: $kind})
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (o:Overlap {scope: scope})
RETURN o.id AS overlap, o.text AS text, o.n_tokens AS n_tokens, o.n_chains AS n_chains,
       o.n_tokens * (o.n_chains - 1) AS saved, o.coverage AS coverage, o.control AS control, o.control_name AS control_name
ORDER BY saved DESC, overlap
LIMIT $limit

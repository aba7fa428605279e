// Overlaps as a picture
// Overlaps with the chains that share them (for Neo4j Browser). Needs: trails overlaps.
// $kind: string := "exact" | exact, masked, near or skeleton
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 45 | rows at most
// returns overlap: node
// returns at: relationship, IN
// returns chain: node
MATCH (found:Overlap {kind: $kind})
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (o:Overlap {scope: scope})
WITH o ORDER BY o.n_tokens * (o.n_chains - 1) DESC, o.id LIMIT 10
MATCH (o)-[i:IN]->(c:Chain)
RETURN o AS overlap, i AS at, c AS chain
ORDER BY overlap.id, chain.id, at.first
LIMIT $limit

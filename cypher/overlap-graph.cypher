// Overlaps as a picture
// Overlaps with the chains that share them (for Neo4j Browser). Needs: trails overlaps.
// $kind: string := "exact" | exact, masked, near or skeleton
// $limit: integer := 150 | rows at most
// returns overlap: node
// returns at: relationship, IN
// returns chain: node
MATCH (o:Overlap {kind: $kind})
WITH o ORDER BY o.n_tokens * (o.n_chains - 1) DESC, o.id LIMIT 15
MATCH (o)-[i:IN]->(c:Chain)
RETURN o AS overlap, i AS at, c AS chain
ORDER BY overlap.id, chain.id, at.first
LIMIT $limit

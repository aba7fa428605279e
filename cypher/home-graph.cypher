// Who holds what
// Homes, some of the chains that each holds, the runs that measured them and the sources that they came from. Every home is there before any has a second chain.
// $chains: integer := 12 | chains of one home at most
// $limit: integer := 24 | chains of all homes at most; one that a home holds by two runs counts twice
// returns home: node
// returns holds: relationship, HOLDS
// returns chain: node
// returns measured: relationship, MEASURED
// returns run: node
// returns from: relationship, FROM
// returns source: node
MATCH (h:Home)
WHERE h.id IS NOT NULL
OPTIONAL MATCH (h)-[:HOLDS]->(c:Chain)
WITH h, c.id AS id ORDER BY id
WITH h, collect(DISTINCT id)[0..$chains] AS some
OPTIONAL MATCH (h)-[x:HOLDS]->(c:Chain)
WHERE c.id IN some
OPTIONAL MATCH (c)-[m:MEASURED]->(r:Run)
WHERE m.run = x.run
OPTIONAL MATCH (c)-[f:FROM]->(s:Source)
WITH h, x, c, m, r, f, s, size([id IN some WHERE id < c.id]) AS place
RETURN h AS home, x AS holds, c AS chain, m AS measured, r AS run, f AS from, s AS source
ORDER BY coalesce(place, 0), home.id, chain.id, run.id
LIMIT $limit

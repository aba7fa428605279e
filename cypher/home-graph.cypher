// Who holds what
// Homes, some of the chains that each holds, the runs that measured them and the sources that they came from.
// $limit: integer := 12 | chains at most, with their runs
// returns home: node
// returns holds: relationship, HOLDS
// returns chain: node
// returns measured: relationship, MEASURED
// returns run: node
// returns from: relationship, FROM
// returns source: node
MATCH (h:Home)-[x:HOLDS]->(c:Chain)
WITH h, x, c ORDER BY c.id, h.id LIMIT $limit
MATCH (c)-[m:MEASURED]->(r:Run {id: x.run})
MATCH (c)-[f:FROM]->(s:Source)
RETURN h AS home, x AS holds, c AS chain, m AS measured, r AS run, f AS from, s AS source
ORDER BY chain.id, home.id, run.id
LIMIT $limit

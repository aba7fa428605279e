// Change by source
// Mean change of surprisal per data set from one run to another: trained text compared with text that should not have moved.
// $before: string = "r0000000000000000" | a run's id
// $after: string = "r0000000000000001" | another run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns source: string
// returns chains: integer, chains measured by both
// returns before: float, nats per token, mean over chains
// returns after: float, nats per token, mean over chains
// returns change: float, nats per token; below 0 = became easier
// returns spread: float, nats per token, standard deviation of the change over chains; null for one chain
MATCH (c:Chain)-[x:MEASURED]->(:Run {id: $before})
MATCH (c)-[y:MEASURED]->(:Run {id: $after})
WHERE $home = '' OR (EXISTS { (c)<-[:HOLDS {run: $before}]-(:Home {id: $home}) }
                    AND EXISTS { (c)<-[:HOLDS {run: $after}]-(:Home {id: $home}) })
WITH c.source AS source, count(c) AS chains, avg(x.mean_surprisal) AS before, avg(y.mean_surprisal) AS after,
     avg(y.mean_surprisal - x.mean_surprisal) AS change, stDev(y.mean_surprisal - x.mean_surprisal) AS deviation
RETURN source, chains, before, after, change, CASE WHEN chains > 1 THEN deviation END AS spread
ORDER BY change, source
LIMIT $limit

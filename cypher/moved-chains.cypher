// Chains before and after
// How much easier or harder each chain became from one run to another; the largest changes first.
// $before: string = "r0000000000000000" | a run's id
// $after: string = "r0000000000000001" | another run's id, for example with an adapter
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns source: string
// returns before: float, nats per token
// returns after: float, nats per token
// returns change: float, nats per token; below 0 = became easier
// returns n_tokens: integer, tokens
MATCH (c:Chain)-[x:MEASURED]->(:Run {id: $before})
MATCH (c)-[y:MEASURED]->(:Run {id: $after})
WHERE $home = '' OR (EXISTS { (c)<-[:HOLDS {run: $before}]-(:Home {id: $home}) }
                    AND EXISTS { (c)<-[:HOLDS {run: $after}]-(:Home {id: $home}) })
RETURN c.id AS chain, c.source AS source, x.mean_surprisal AS before, y.mean_surprisal AS after,
       y.mean_surprisal - x.mean_surprisal AS change, y.n_tokens AS n_tokens
ORDER BY abs(change) DESC, chain
LIMIT $limit

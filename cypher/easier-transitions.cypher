// Transitions that became easier
// The transitions whose surprisal fell most from one run to another, in the chains whose mean fell most.
// $before: string = "r0000000000000000" | a run's id
// $after: string = "r0000000000000001" | another run's id
// $home: string := "" | a home's id; empty = every home
// $chains: integer := 10 | chains to open, those that became easiest first
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns position: integer, tokens from 0
// returns piece: string, the token
// returns before: float, nats
// returns after: float, nats
// returns change: float, nats; below 0 = became easier
// returns hidden_change: float, 0..2, hidden shift after minus before
MATCH (c:Chain)-[x:MEASURED]->(:Run {id: $before})
MATCH (c)-[y:MEASURED]->(:Run {id: $after})
WHERE $home = '' OR (EXISTS { (c)<-[:HOLDS {run: $before}]-(:Home {id: $home}) }
                    AND EXISTS { (c)<-[:HOLDS {run: $after}]-(:Home {id: $home}) })
WITH c.id AS id, y.mean_surprisal - x.mean_surprisal AS chain_change ORDER BY chain_change, id LIMIT $chains
MATCH (a:Token {chain: id})-[r:NEXT]->(b:Token)
WHERE r.run = $before
MATCH (a)-[q:NEXT]->(b)
WHERE q.run = $after
RETURN id AS chain, b.position AS position, b.piece AS piece, r.surprisal AS before, q.surprisal AS after,
       q.surprisal - r.surprisal AS change, q.hidden_shift - r.hidden_shift AS hidden_change
ORDER BY change, chain, position
LIMIT $limit

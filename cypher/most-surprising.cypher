// Most surprising transitions
// The transitions with the highest surprisal over all chains, with the tokens on both sides.
// First tokens of chains are included: their position is 0, and before is empty.
// Only the chains and steps with the highest peaks are opened: the top transitions can only lie there.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 20 | rows at most
// returns chain: string, id
// returns position: integer, tokens from 0
// returns before: string, the token before
// returns piece: string, the surprising token
// returns surprisal: float, nats
// returns entropy: float, nats
// returns rank: integer, 0 = most likely
// returns step: integer, index of its step
// returns run: string, id
MATCH (c:Chain)-[m:MEASURED]->(:Run)
WHERE m.run = $run AND m.max_surprisal IS NOT NULL
  AND ($home = '' OR EXISTS { (c)<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
WITH c.id AS id, m.run AS of_run, m.max_surprisal AS most ORDER BY most DESC, id LIMIT $limit
MATCH (c:Chain {id: id})-[:HAS_STEP]->(s:Step)-[x:MEASURED_STEP]->(:Run)
WHERE x.run = of_run AND x.max_surprisal IS NOT NULL
WITH s, x ORDER BY x.max_surprisal DESC, s.chain, s.index LIMIT $limit
MATCH (b)-[r:BEGINS|NEXT]->(t:Token {chain: s.chain, step: s.index})
WHERE r.run = x.run AND r.surprisal IS NOT NULL
RETURN t.chain AS chain, t.position AS position, b.piece AS before, t.piece AS piece, r.surprisal AS surprisal,
       r.entropy AS entropy, r.rank AS rank, t.step AS step, r.run AS run
ORDER BY surprisal DESC, chain, position, run
LIMIT $limit

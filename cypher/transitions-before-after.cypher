// Transitions of a chain before and after
// Every transition of one chain in two runs; the largest changes first.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $before: string = "r0000000000000000" | a run's id
// $after: string = "r0000000000000001" | another run's id
// $limit: integer := 200 | rows at most
// returns position: integer, tokens from 0
// returns piece: string, the token
// returns before: float, nats
// returns after: float, nats
// returns change: float, nats; below 0 = became easier
// returns attention_change: float, 0..1, attention shift after minus before
// returns hidden_change: float, 0..2, hidden shift after minus before
MATCH (a:Token {chain: $chain})-[r:NEXT]->(b:Token)
WHERE r.run = $before
MATCH (a)-[q:NEXT]->(b)
WHERE q.run = $after
RETURN b.position AS position, b.piece AS piece, r.surprisal AS before, q.surprisal AS after,
       q.surprisal - r.surprisal AS change, q.attention_shift - r.attention_shift AS attention_change,
       q.hidden_shift - r.hidden_shift AS hidden_change
ORDER BY abs(change) DESC, position
LIMIT $limit

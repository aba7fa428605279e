// Most surprising transitions of a chain
// Where one chain surprises the model most; high surprisal with low entropy means that it was sure of something else.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 20 | rows at most
// returns position: integer, tokens from 0
// returns before: string, the token before
// returns piece: string, the surprising token
// returns surprisal: float, nats
// returns entropy: float, nats
// returns rank: integer, 0 = most likely
// returns step: integer, index of its step
// returns run: string, id
MATCH (b)-[r:BEGINS|NEXT]->(t:Token {chain: $chain})
WHERE r.run = $run AND r.surprisal IS NOT NULL
RETURN t.position AS position, b.piece AS before, t.piece AS piece, r.surprisal AS surprisal, r.entropy AS entropy,
       r.rank AS rank, t.step AS step, r.run AS run
ORDER BY surprisal DESC, position, run
LIMIT $limit

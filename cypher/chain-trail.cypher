// The trail of a chain
// Every token of one chain in order, with what the run measured on the transition that leads to it.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 2000 | rows at most
// returns position: integer, tokens from 0
// returns piece: string, the token as shown
// returns step: integer, index of its step
// returns surprisal: float, nats
// returns entropy: float, nats
// returns rank: integer, 0 = most likely
// returns logit_shift: float, 0..1
// returns attention_shift: float, 0..1, mean over layers
// returns attention_previous: float, 0..1, mean over layers
// returns attention_sink: float, 0..1, mean over layers
// returns hidden_shift: float, 0..2, mean over layers
// returns run: string, id
MATCH (before)-[r:BEGINS|NEXT]->(t:Token {chain: $chain})
WHERE r.run = $run
RETURN t.position AS position, t.piece AS piece, t.step AS step, r.surprisal AS surprisal, r.entropy AS entropy,
       r.rank AS rank, r.logit_shift AS logit_shift, r.attention_shift AS attention_shift,
       r.attention_previous AS attention_previous, r.attention_sink AS attention_sink, r.hidden_shift AS hidden_shift,
       r.run AS run
ORDER BY run, position
LIMIT $limit

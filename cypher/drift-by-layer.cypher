// Drift of a chain by depth
// How far hidden states and attention move per token in the early, middle and late layers, step by step, with the shift
// between random positions of the same chain.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 500 | rows at most
// returns step: integer, index from 0
// returns role: string
// returns hidden_early: float, 0..2, mean over the step's tokens
// returns hidden_middle: float, 0..2
// returns hidden_late: float, 0..2
// returns hidden_random: float, 0..2, random pairs of positions, mean over layers
// returns attention_early: float, 0..1
// returns attention_middle: float, 0..1
// returns attention_late: float, 0..1
// returns run: string, id
MATCH (c:Chain {id: $chain})-[m:MEASURED]->(:Run)
WHERE m.run = $run
MATCH (c)-[:HAS_STEP]->(s:Step)
MATCH (b)-[r:BEGINS|NEXT]->(t:Token {chain: $chain})
WHERE r.run = m.run AND t.step = s.index
RETURN s.index AS step, s.role AS role, avg(r.hidden_shift_early) AS hidden_early, avg(r.hidden_shift_middle) AS hidden_middle,
       avg(r.hidden_shift_late) AS hidden_late,
       reduce(total = 0.0, x IN m.hidden_baseline[1..] | total + x) / (size(m.hidden_baseline) - 1) AS hidden_random,
       avg(r.attention_shift_early) AS attention_early, avg(r.attention_shift_middle) AS attention_middle,
       avg(r.attention_shift_late) AS attention_late, m.run AS run
ORDER BY run, step
LIMIT $limit

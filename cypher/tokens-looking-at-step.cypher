// Tokens that look at a step
// The later tokens for which this step is the earlier step they attend to most. Needs --token-attention at ingest.
// $step: string = "ce254d5f805b7567c:1" | the step's id: chain:index
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 100 | rows at most
// returns position: integer, tokens from 0
// returns piece: string
// returns in_step: integer, index of the token's own step
// returns mean: float, 0..1, attention mass, mean over layers and heads
// returns layer: integer, layer of the largest mass
// returns run: string, id
MATCH (t:Token)-[a:ATTENDS_TO]->(s:Step {id: $step})
WHERE a.run = $run
RETURN t.position AS position, t.piece AS piece, t.step AS in_step, a.mean AS mean, a.layer AS layer, a.run AS run
ORDER BY mean DESC, position, run
LIMIT $limit

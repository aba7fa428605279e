// Tensions: where a chain turns against itself, the hardest turn first
// Steps that begin with BUT or HOWEVER by how surprising their tokens are. A step's id stays the same in every home and export:
// a library is `trails query tensions --json`, and its training rows are `trails export --subgraph query:tensions`.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns step: string, id
// returns chain: string, id
// returns role: string, BUT or HOWEVER
// returns against: string, text of the step before
// returns text: string, text of the step
// returns surprisal: float, nats per token, mean over the step
// returns run: string, id
MATCH (s:Step)-[m:MEASURED_STEP]->(:Run)
WHERE m.run = $run AND m.mean_surprisal IS NOT NULL AND s.role IN ['BUT', 'HOWEVER'] AND s.index > 0
  AND ($home = '' OR EXISTS { (:Chain {id: s.chain})<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
MATCH (before:Step {chain: s.chain, index: s.index - 1})
RETURN s.id AS step, s.chain AS chain, s.role AS role, before.text AS against, s.text AS text, m.mean_surprisal AS surprisal,
       m.run AS run
ORDER BY surprisal DESC, step, run
LIMIT $limit

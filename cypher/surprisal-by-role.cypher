// Surprisal by role
// How hard the steps of each role are for the model; a first step is always hard, so it is counted separately.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns role: string
// returns steps: integer, steps after the first of their chain
// returns mean_surprisal: float, nats per token, mean over those steps
// returns own: float, 0..1, attention within the step, mean over those steps
// returns first_steps: integer, first steps
// returns first_surprisal: float, nats per token, mean over first steps
MATCH (s:Step)-[m:MEASURED_STEP]->(:Run)
WHERE m.run = $run AND m.mean_surprisal IS NOT NULL
  AND ($home = '' OR EXISTS { (:Chain {id: s.chain})<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
RETURN s.role AS role, sum(CASE WHEN s.index > 0 THEN 1 ELSE 0 END) AS steps,
       avg(CASE WHEN s.index > 0 THEN m.mean_surprisal END) AS mean_surprisal,
       avg(CASE WHEN s.index > 0 THEN m.mass_own END) AS own,
       sum(CASE WHEN s.index = 0 THEN 1 ELSE 0 END) AS first_steps,
       avg(CASE WHEN s.index = 0 THEN m.mean_surprisal END) AS first_surprisal
ORDER BY steps DESC, role
LIMIT $limit

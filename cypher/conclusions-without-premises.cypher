// Conclusions that ignore their premises
// Chains whose last step loses less than $least nats a token without any single earlier step. Needs: trails anchors SELECTION.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $least: float := 0.05 | nats per token
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns text: string, the last step
// returns most: float, nats per token, its largest loss
// returns steps: integer, earlier steps that were measured
// returns run: string, id
MATCH (c:Chain)-[:HAS_STEP]->(l:Step)-[d:DEPENDS_ON]->(:Step)
WHERE d.run = $run AND l.index = c.n_steps - 1
  AND ($home = '' OR EXISTS { (c)<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
WITH c, l, d.run AS run, max(d.nats) AS most, count(d) AS steps
WHERE most < $least
RETURN c.id AS chain, l.text AS text, most, steps, run
ORDER BY most, chain, run
LIMIT $limit

// Steps nobody needs
// Steps that no later step of their chain loses $least nats a token without. Needs: trails anchors SELECTION.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $least: float := 0.02 | nats per token from which a step is needed
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns step: integer, index
// returns role: string, its role
// returns text: string, its text
// returns most: float, nats per token, the largest loss of a later step
// returns later: integer, later steps that were measured
// returns run: string, id
MATCH (:Step)-[d:DEPENDS_ON]->(s:Step)
WHERE d.run = $run AND ($home = '' OR EXISTS { (:Chain {id: s.chain})<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
WITH s, d.run AS run, max(d.nats) AS most, count(d) AS later
WHERE most < $least
RETURN s.chain AS chain, s.index AS step, s.role AS role, s.text AS text, most, later, run
ORDER BY most, chain, step, run
LIMIT $limit

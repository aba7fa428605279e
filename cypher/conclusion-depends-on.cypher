// What a conclusion depends on
// The earlier steps that the last step of a chain loses most without, beside the attention mass that it gives them and the loss
// for an equally long random span. The span is drawn for one earlier step of every later one, so one row at most has it; the
// controls of all later steps together are in the table of: trails anchors CHAIN. Needs: trails anchors CHAIN.
// $chain: string = "cf835ddd0b8153aa7" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 50 | rows at most
// returns step: integer, index of the earlier step
// returns role: string, its role
// returns text: string, its text
// returns nats: float, nats per token that the last step loses without it
// returns kl: float, nats, divergence of the last step's predictions
// returns mass: float, 0..1, attention mass on it
// returns random_nats: float, nats per token, control on the one drawn step; null in the other rows
// returns run: string, id
MATCH (c:Chain {id: $chain})-[:HAS_STEP]->(l:Step)-[d:DEPENDS_ON]->(s:Step)
WHERE d.run = $run AND l.index = c.n_steps - 1
RETURN s.index AS step, s.role AS role, s.text AS text, d.nats AS nats, d.kl AS kl, d.mass AS mass,
       d.random_nats AS random_nats, d.run AS run
ORDER BY nats DESC, step, run
LIMIT $limit

// Most attended steps of a chain
// How much attention each step gets from later steps, in total and per token of the step, because a longer step catches more.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 50 | rows at most
// returns step: integer, index from 0
// returns role: string
// returns text: string
// returns received: float, 0..1, mean mass from a later step, mean over layers and heads
// returns per_token: float, received divided by the step's tokens
// returns n_later: integer, later steps
// returns strongest: float, 0..1, largest mass from one later step
// returns run: string, id
MATCH (k:Step {chain: $chain})<-[a:ATTENDS_TO]-(q:Step)
WHERE a.run = $run
WITH k, a.run AS run, avg(a.mean) AS received, max(a.mean) AS strongest, count(a) AS n_later
MATCH (k)-[m:MEASURED_STEP]->(:Run)
WHERE m.run = run
RETURN k.index AS step, k.role AS role, k.text AS text, received, received / m.n_tokens AS per_token, n_later, strongest, run
ORDER BY received DESC, step, run
LIMIT $limit

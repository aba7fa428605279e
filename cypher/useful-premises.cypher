// Most useful premises of a chain
// How much each step helps the next one, and how much everything before helps beyond the question alone.
// Needs chains ingested with premises measured; null otherwise.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 100 | rows at most
// returns step: integer, index of the helped step
// returns roles: string, role of the helping step > role of the helped step
// returns nll_given_all: float, nats per token
// returns nll_given_question: float, nats per token
// returns context_gain: float, nats per token, question only minus everything
// returns premise_usefulness: float, nats per token, without the previous step minus with it
// returns run: string, id
MATCH (a:Step {chain: $chain})-[l:LEADS_TO]->(b:Step)
WHERE l.run = $run
RETURN b.index AS step, l.roles AS roles, l.nll_given_all AS nll_given_all, l.nll_given_question AS nll_given_question,
       l.nll_given_question - l.nll_given_all AS context_gain, l.premise_usefulness AS premise_usefulness, l.run AS run
ORDER BY coalesce(premise_usefulness, -1000000.0) DESC, step, run
LIMIT $limit

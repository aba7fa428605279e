// Steps and roles of a chain
// The steps of one chain with role, connective, surprisal, and where their attention goes.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 500 | rows at most
// returns step: integer, index from 0
// returns role: string
// returns connective: string, the cue as written
// returns explicit: boolean, a connective in the text gave the role
// returns text: string
// returns n_tokens: integer, tokens
// returns mean_surprisal: float, nats per token
// returns max_surprisal: float, nats
// returns mass_sink: float, 0..1, attention on the first token
// returns mass_question: float, 0..1, attention on the rest of the context
// returns mass_own: float, 0..1, attention within the step
// returns run: string, id
MATCH (c:Chain {id: $chain})-[:HAS_STEP]->(s:Step)-[m:MEASURED_STEP]->(:Run)
WHERE m.run = $run
RETURN s.index AS step, s.role AS role, s.connective AS connective, s.explicit AS explicit, s.text AS text,
       m.n_tokens AS n_tokens, m.mean_surprisal AS mean_surprisal, m.max_surprisal AS max_surprisal,
       m.mass_sink AS mass_sink, m.mass_question AS mass_question, m.mass_own AS mass_own, m.run AS run
ORDER BY run, step
LIMIT $limit

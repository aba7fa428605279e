// A chain as a picture
// The steps of a chain in their order, and for each the earlier step that it looks back at most, token for token, where that is above an even spread.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 50 | steps at most
// returns step: node
// returns follows: relationship, NEXT_STEP
// returns next: node, the next step
// returns looks: relationship, ATTENDS_TO
// returns back: node, the earlier step it looks at most per token
MATCH (s:Step {chain: $chain})
WITH s ORDER BY s.index LIMIT $limit
OPTIONAL MATCH (s)-[x:ATTENDS_TO]->(:Step)-[m:MEASURED_STEP]->(:Run)
WHERE x.run = $run AND m.run = $run AND m.n_tokens > 0
WITH s, max(x.mean / m.n_tokens) AS most, sum(x.mean) AS mass, sum(m.n_tokens) AS tokens
OPTIONAL MATCH (s)-[look:ATTENDS_TO]->(b:Step)-[of:MEASURED_STEP]->(:Run)
WHERE look.run = $run AND of.run = $run AND of.n_tokens > 0 AND look.mean / of.n_tokens = most
  AND most * tokens > 1.0001 * mass
OPTIONAL MATCH (s)-[f:NEXT_STEP]->(n:Step)
RETURN s AS step, f AS follows, n AS next, look AS looks, b AS back
ORDER BY step.index
LIMIT $limit

// Gaps of a chain
// The seams of one chain by how gap-like they are, with every score. Needs: trails gaps (a home needs 20 chains with four steps or more).
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 100 | rows at most
// returns rank: integer, place within the chain, 0 = most gap-like
// returns step: integer, index of the step after the seam
// returns role: string, of that step
// returns score: float, 0..1
// returns control_auc: float, 0..1, of the score
// returns baseline_auc: float, 0..1, of the position alone
// returns text: string, that step
// returns bridge_nats: float, nats
// returns ungrounded: float
// returns value_surprisal: float, nats
// returns context_gain: float, nats per token
// returns premise_usefulness: float, nats per token
// returns role_bigram: float, nats
// returns run: string, id
MATCH (found:Gap {chain: $chain})
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (g:Gap {chain: $chain, scope: scope})-[:BEFORE]->(s:Step)
RETURN g.rank AS rank, g.step AS step, s.role AS role, g.score AS score, g.control_auc AS control_auc,
       g.baseline_auc AS baseline_auc, s.text AS text, g.bridge_nats AS bridge_nats, g.ungrounded AS ungrounded,
       g.value_surprisal AS value_surprisal, g.context_gain AS context_gain, g.premise_usefulness AS premise_usefulness,
       g.role_bigram AS role_bigram, g.run AS run
ORDER BY rank, step, run
LIMIT $limit

// Most gap-like seams
// Seams where a step seems to be missing, with the removed-step AUC of the score and of the position-only baseline on this
// corpus. Needs: trails gaps (a home needs 20 chains with four steps or more).
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $rank: integer := 0 | largest place within its chain, 0 = each chain's most gap-like seam only
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns step: integer, index of the step after the seam
// returns score: float, 0..1
// returns control_auc: float, 0..1, of the score
// returns baseline_auc: float, 0..1, of the position alone
// returns text: string, that step
// returns bridge_nats: float, nats
// returns ungrounded: float, values not found in question or earlier steps
// returns value_surprisal: float, nats
// returns premise_usefulness: float, nats per token
// returns run: string, id
MATCH (found:Gap)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (g:Gap {scope: scope})-[:BEFORE]->(s:Step)
WHERE g.rank <= $rank
RETURN g.chain AS chain, g.step AS step, g.score AS score, g.control_auc AS control_auc, g.baseline_auc AS baseline_auc,
       s.text AS text, g.bridge_nats AS bridge_nats, g.ungrounded AS ungrounded, g.value_surprisal AS value_surprisal,
       g.premise_usefulness AS premise_usefulness, g.run AS run
ORDER BY score DESC, chain, step, run
LIMIT $limit

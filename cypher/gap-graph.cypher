// Gaps in their context
// The seams that look most like a missing step, each with the step before it and the two after it. Needs: trails gaps (a home needs 20 chains with four steps or more).
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 4 | gaps at most
// returns gap: node
// returns before: relationship, BEFORE
// returns step: node, the step after the seam
// returns leads: relationship, NEXT_STEP
// returns prior: node, the step before the seam
// returns onward: relationship, NEXT_STEP
// returns later: node
MATCH (found:Gap)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (g:Gap {scope: scope})-[before:BEFORE]->(s:Step)
WHERE g.rank = 0
WITH g, before, s ORDER BY g.score DESC, g.id LIMIT $limit
OPTIONAL MATCH (p:Step)-[leads:NEXT_STEP]->(s)
OPTIONAL MATCH (s)-[onward:NEXT_STEP]->(l:Step)
RETURN g AS gap, before, s AS step, leads, p AS prior, onward, l AS later
ORDER BY gap.score DESC, gap.id
LIMIT $limit

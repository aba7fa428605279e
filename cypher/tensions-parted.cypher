// Tensions on which models part
// Steps that begin with BUT or HOWEVER and hold a span that some models find hard and others easy. Needs: trails agreement.
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns step: string, id
// returns chain: string, id
// returns role: string, BUT or HOWEVER
// returns text: string, text of the step
// returns statistic: float, 0..0.5, largest standard deviation of the members' ranks over its spans
// returns spans: integer, its spans
MATCH (d:Disagreement)-[:AT]->(s:Step)
WHERE s.role IN ['BUT', 'HOWEVER'] AND ($home = '' OR d.id ENDS WITH '@' + substring($home, 0, 9))
RETURN s.id AS step, s.chain AS chain, s.role AS role, s.text AS text, max(d.statistic) AS statistic, count(d) AS spans
ORDER BY statistic DESC, step
LIMIT $limit

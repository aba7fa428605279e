// Where the members of a consilium part
// Spans on which models are as far apart as on unrelated ones: some find them hard, others easy. Needs: trails agreement.
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns step: integer, index of the step in which the span ends
// returns role: string, its role
// returns text: string, the span
// returns statistic: float, 0..0.5, standard deviation of the members' ranks
// returns chance: float, median with the spans shifted within their chain
// returns hardest_for: string, member
// returns easiest_for: string, member
// returns measure: string, what was compared
MATCH (d:Disagreement)-[:AT]->(s:Step)
WHERE $home = '' OR d.id ENDS WITH '@' + substring($home, 0, 9)
RETURN d.chain AS chain, s.index AS step, s.role AS role, d.text AS text, d.statistic AS statistic, d.chance AS chance,
       d.hardest_for AS hardest_for, d.easiest_for AS easiest_for, d.measure AS measure
ORDER BY statistic DESC, chain, step, text
LIMIT $limit

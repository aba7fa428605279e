// Chains by role pattern
// Chains whose steps hold a pattern of roles such as IF>THEN>BUT>THEREFORE, side by side or only in that order.
// $pattern: string := "" | roles joined by >, for example "IF>THEN>BUT>THEREFORE"; empty = every chain
// $in_order: boolean := false | true = other steps may lie between
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns source: string
// returns source_id: string
// returns language: string, ISO 639-1
// returns roles: string, roles of all its steps
// returns n_steps: integer, steps
// returns text: string, its first 80 characters
MATCH (c:Chain)
WHERE $home = '' OR EXISTS { (c)<-[:HOLDS]-(:Home {id: $home}) }
WITH c, CASE WHEN $pattern = '' THEN [] ELSE split($pattern, '>') END AS wanted
WHERE ('>' + c.roles + '>') CONTAINS ('>' + $pattern + '>') OR $pattern = '' OR ($in_order AND size(wanted) =
      reduce(found = 0, role IN split(c.roles, '>') | CASE WHEN found < size(wanted) AND role = wanted[found] THEN found + 1 ELSE found END))
RETURN c.id AS chain, c.source AS source, c.source_id AS source_id, c.language AS language, c.roles AS roles,
       c.n_steps AS n_steps, substring(c.text, 0, 80) AS text
ORDER BY source, source_id, chain
LIMIT $limit

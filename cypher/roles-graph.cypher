// From one role to another
// Paths of at most four steps from a step of one role to a step of another, shortest first.
// $from_role: string := "IF" | role of the first step
// $to_role: string := "THEREFORE" | role of the last step
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 5 | ways at most
// returns way: path, of NEXT_STEP
MATCH way = (a:Step {role: $from_role})-[:NEXT_STEP*1..4]->(b:Step {role: $to_role})
WHERE $home = '' OR EXISTS { (:Chain {id: a.chain})<-[:HOLDS]-(:Home {id: $home}) }
WITH way, a, b, b.index - a.index AS steps
RETURN way
ORDER BY steps, a.id, b.id
LIMIT $limit

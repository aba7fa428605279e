// The biggest forks of the map
// The three states of the map that go on in the most ways, each with the ways most walked; the text of a state is its last tokens. Needs: trails map.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $forks: integer := 3 | forks
// $limit: integer := 40 | ways at most
// returns state: node
// returns way: relationship, TRAIL
// returns next: node
MATCH (found:State)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (s:State {scope: scope})-[t:TRAIL]->(n:State)
WITH s, count(t) AS ways ORDER BY ways DESC, s.n_chains DESC, s.id LIMIT $forks
MATCH (s)-[t:TRAIL]->(n:State)
WITH s, t, n ORDER BY t.count DESC, n.id
WITH s, collect(n.id)[0..5] AS most
MATCH (s)-[t:TRAIL]->(n:State)
WHERE n.id IN most
RETURN s AS state, t AS way, n AS next
ORDER BY state.id, way.count DESC, next.id
LIMIT $limit

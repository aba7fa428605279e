// Where chains meet
// The states of the map where the most chains meet and part again: some of the tokens that are merged there, and the token after each. Needs: trails map.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $states: integer := 2 | states
// $limit: integer := 40 | tokens at most
// returns state: node
// returns at: relationship, AT
// returns token: node
// returns goes_on: relationship, NEXT
// returns next: node
MATCH (found:State)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (s:State {scope: scope})-[w:TRAIL]->(:State)
WITH s, count(w) AS ways
WHERE ways > 1 AND trim(s.text) <> ''
WITH s ORDER BY s.n_chains DESC, s.id LIMIT $states
MATCH (t:Token)-[:AT]->(s)
WITH s, t.id AS id ORDER BY id
WITH s, collect(id)[0..5] AS some
MATCH (t:Token)-[a:AT]->(s)
WHERE t.id IN some
OPTIONAL MATCH (t)-[x:NEXT {run: $run}]->(n:Token)
RETURN s AS state, a AS at, t AS token, x AS goes_on, n AS next
ORDER BY state.id, token.id
LIMIT $limit

// Where chains meet
// States of the map that the most chains pass, each with some of the chains' tokens that are merged there. Needs: trails map.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $states: integer := 4 | states
// $limit: integer := 40 | tokens at most
// returns state: node
// returns at: relationship, AT
// returns token: node
MATCH (found:State)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (s:State {scope: scope})
WITH s ORDER BY s.n_chains DESC, s.id LIMIT $states
MATCH (t:Token)-[:AT]->(s)
WITH s, t.id AS id ORDER BY id
WITH s, collect(id)[0..10] AS some
MATCH (t:Token)-[a:AT]->(s)
WHERE t.id IN some
RETURN s AS state, a AS at, t AS token
ORDER BY state.id, token.id
LIMIT $limit

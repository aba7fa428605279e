// The map along a chain
// States of the map that a chain passes, and how many other chains pass there too. Needs: trails map.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 500 | rows at most
// returns position: integer, tokens from 0
// returns piece: string, the token
// returns state: string, id
// returns n_chains: integer, chains that pass the state
// returns branches: integer, ways to go on from it
MATCH (:Token {chain: $chain})-[:AT]->(found:State)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (t:Token {chain: $chain})-[:AT]->(s:State {scope: scope})
OPTIONAL MATCH (s)-[w:TRAIL]->(:State)
RETURN t.position AS position, t.piece AS piece, s.id AS state, s.n_chains AS n_chains, count(w) AS branches
ORDER BY position, state
LIMIT $limit

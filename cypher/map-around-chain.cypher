// The map along a chain
// States of the map that a chain passes, and how many other chains pass there too. Needs: trails map.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $limit: integer := 500 | rows at most
// returns position: integer, tokens from 0
// returns piece: string, the token
// returns state: string, id
// returns n_chains: integer, chains that pass the state
// returns branches: integer, ways to go on from it
MATCH (t:Token {chain: $chain})-[:AT]->(s:State)
OPTIONAL MATCH (s)-[w:TRAIL]->(:State)
RETURN t.position AS position, t.piece AS piece, s.id AS state, s.n_chains AS n_chains, count(w) AS branches
ORDER BY position, state
LIMIT $limit

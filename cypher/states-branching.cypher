// States with most branches
// States of the map from which chains go on in the most ways. Needs: trails map.
// $least: integer := 2 | chains that pass the state, at least
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = whoever wrote last
// $limit: integer := 50 | rows at most
// returns state: string, id
// returns text: string, its tokens
// returns n_chains: integer, chains that pass
// returns n_occurrences: integer, token occurrences merged here
// returns branches: integer, ways to go on
// returns mean_surprisal: float, nats, of the next token, mean over ways weighted by how often they are walked
MATCH (found:State)
WHERE found.run = $run AND found.scope IS NOT NULL AND ($home = '' OR found.home = $home)
WITH found.scope AS scope, max(found.date) AS date ORDER BY date DESC, scope LIMIT 1
MATCH (s:State {scope: scope})-[t:TRAIL]->(n:State)
WHERE s.n_chains >= $least
RETURN s.id AS state, s.text AS text, s.n_chains AS n_chains, s.n_occurrences AS n_occurrences, count(t) AS branches,
       sum(t.count * t.mean_surprisal) / sum(t.count) AS mean_surprisal
ORDER BY branches DESC, n_chains DESC, state
LIMIT $limit

// The corpus by source and language
// How many chains and steps come from each data set, per language.
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns source: string
// returns language: string, ISO 639-1
// returns chains: integer, chains
// returns steps: integer, steps
// returns mean_steps: float, steps per chain
MATCH (c:Chain)
WHERE $home = '' OR EXISTS { (c)<-[:HOLDS]-(:Home {id: $home}) }
RETURN c.source AS source, c.language AS language, count(c) AS chains, sum(c.n_steps) AS steps, avg(c.n_steps) AS mean_steps
ORDER BY chains DESC, source, language
LIMIT $limit

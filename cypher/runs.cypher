// Runs
// Every measuring instrument and how much it measured.
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns run: string, id
// returns model: string
// returns adapter: string, hash of the adapter, empty if none
// returns dtype: string
// returns n_layers: integer, layers
// returns chains: integer, chains measured
// returns tokens: integer, tokens
// returns mean_surprisal: float, nats per token, mean over chains
MATCH (c:Chain)-[m:MEASURED]->(r:Run)
WHERE $home = '' OR EXISTS { (c)<-[:HOLDS {run: r.id}]-(:Home {id: $home}) }
RETURN r.id AS run, r.model AS model, r.adapter AS adapter, r.dtype AS dtype, r.n_layers AS n_layers,
       count(m) AS chains, sum(m.n_tokens) AS tokens, avg(m.mean_surprisal) AS mean_surprisal
ORDER BY run
LIMIT $limit

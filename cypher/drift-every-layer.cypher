// Drift of a chain in every layer
// Mean hidden shift per layer over the chain's transitions, with that of random positions. Needs a graph loaded with --per-layer.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 500 | rows at most
// returns layer: integer, 0 = input embeddings
// returns hidden_shift: float, 0..2, mean over transitions
// returns hidden_random: float, 0..2, mean over random pairs of positions
// returns transitions: integer, transitions
// returns run: string, id
MATCH (c:Chain {id: $chain})-[m:MEASURED]->(:Run)
WHERE m.run = $run
MATCH (a:Token {chain: $chain})-[r:NEXT]->(b:Token)
WHERE r.run = m.run AND r.hidden_shift_by_layer IS NOT NULL
UNWIND range(0, size(m.hidden_baseline) - 1) AS layer
RETURN layer, avg(r.hidden_shift_by_layer[layer]) AS hidden_shift, max(m.hidden_baseline[layer]) AS hidden_random,
       count(r) AS transitions, m.run AS run
ORDER BY run, layer
LIMIT $limit

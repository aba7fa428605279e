// Attention between steps of a chain
// Attention from every later step to every earlier one, with the layer in which it is largest.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 200 | rows at most
// returns later: integer, index of the step that looks
// returns earlier: integer, index of the step looked at
// returns later_role: string
// returns earlier_role: string
// returns mean: float, 0..1, mean over layers, heads and the later step's tokens
// returns layer: integer, layer of the largest mass, from 0
// returns at_layer: float, 0..1, mass in that layer
// returns run: string, id
MATCH (q:Step {chain: $chain})-[a:ATTENDS_TO]->(k:Step)
WHERE a.run = $run
WITH q, k, a, reduce(best = 0, i IN range(0, size(a.mass) - 1) | CASE WHEN a.mass[i] > a.mass[best] THEN i ELSE best END) AS layer
RETURN q.index AS later, k.index AS earlier, q.role AS later_role, k.role AS earlier_role, a.mean AS mean,
       layer, a.mass[layer] AS at_layer, a.run AS run
ORDER BY mean DESC, later, earlier, run
LIMIT $limit

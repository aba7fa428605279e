// Variants of a chain
// The microvariants of a chain, those first that shift its predictions most, and the layer in which each drifts most. Needs: trails variants.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 100 | rows at most
// returns variant: string, id
// returns kind: string
// returns detail: string, the edit
// returns edits: integer, tokens, against the parent
// returns distance: integer, tokens, against the chain
// returns logit_drift: float, 0..1
// returns volatility: float, nats
// returns noise_floor: float, nats, of the chain against itself
// returns hidden_drift: float, 0..2, mean over layers
// returns hidden_layer: integer, layer of the largest hidden drift
// returns attention_drift: float, 0..1, mean over layers; null unless measured with --drift
// returns attention_layer: integer, layer of the largest attention drift
// returns run: string, id
MATCH (v:Variant)-[r:VARIANT_OF]->(c:Chain {id: $chain})
WHERE r.run = $run
RETURN v.id AS variant, v.kind AS kind, v.detail AS detail, v.edits AS edits, v.distance AS distance,
       r.logit_drift AS logit_drift, r.volatility AS volatility, r.noise_floor AS noise_floor,
       r.hidden_drift AS hidden_drift, r.hidden_drift_max_layer AS hidden_layer,
       r.attention_drift AS attention_drift, r.attention_drift_max_layer AS attention_layer, r.run AS run
ORDER BY logit_drift DESC, variant, run
LIMIT $limit

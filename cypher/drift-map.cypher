// Drift map of a chain's variants
// Variant by layer: how far the hidden states and the attention of each variant drift from the chain's, the largest first. Needs: trails variants.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 500 | rows at most
// returns variant: string, id
// returns kind: string
// returns layer: integer, 0 = input embeddings
// returns hidden_drift: float, 0..2, 1 - cosine after this layer
// returns attention_drift: float, 0..1, of this layer; null unless measured with --drift
// returns logit_drift: float, 0..1, of the variant
// returns run: string, id
MATCH (v:Variant)-[r:VARIANT_OF]->(c:Chain {id: $chain})
WHERE r.run = $run
UNWIND range(0, size(r.hidden_drift_by_layer) - 1) AS layer
RETURN v.id AS variant, v.kind AS kind, layer, r.hidden_drift_by_layer[layer] AS hidden_drift,
       CASE WHEN layer > 0 THEN r.attention_drift_by_layer[layer - 1] END AS attention_drift,
       r.logit_drift AS logit_drift, r.run AS run
ORDER BY hidden_drift DESC, variant, layer, run
LIMIT $limit

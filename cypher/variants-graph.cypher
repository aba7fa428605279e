// Variants around a chain
// A chain and the microvariants that shift its predictions most. Needs: trails variants.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 14 | variants at most
// returns chain: node
// returns drift: relationship, VARIANT_OF
// returns variant: node
MATCH (v:Variant)-[r:VARIANT_OF]->(c:Chain {id: $chain})
WHERE r.run = $run
RETURN c AS chain, r AS drift, v AS variant
ORDER BY drift.logit_drift DESC, variant.id
LIMIT $limit

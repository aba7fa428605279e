// A chain as a picture
// The chain, its steps, the order between them, and attention from later to earlier steps above a threshold (for Neo4j Browser).
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string := "" | a run's id; empty = every run
// $least: float := 0.02 | smallest attention shown, mean over layers and heads, 0..1
// $limit: integer := 300 | rows at most
// returns chain: node
// returns has: relationship, HAS_STEP
// returns step: node
// returns relation: relationship, LEADS_TO or ATTENDS_TO
// returns other: node, the step at its other end
MATCH (c:Chain {id: $chain})-[h:HAS_STEP]->(s:Step)
OPTIONAL MATCH (s)-[r:LEADS_TO|ATTENDS_TO]->(o:Step)
WHERE ($run = '' OR r.run = $run) AND (r.mean IS NULL OR r.mean >= $least)
RETURN c AS chain, h AS has, s AS step, r AS relation, o AS other
ORDER BY step.index, other.index
LIMIT $limit

// Where a chain changed
// The transitions of a chain whose surprisal changed most from one run to another, each measured twice, so that it shows what a training changed. Needs: a second run of the same chains, as trails diff RUN --adapter FOLDER makes it.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $before: string = "r0000000000000000" | a run's id
// $after: string = "r0000000000000001" | another run's id
// $limit: integer := 8 | transitions at most
// returns token: node
// returns was: relationship, NEXT of the run before
// returns now: relationship, NEXT of the run after
// returns next: node
MATCH (a:Token {chain: $chain})-[r:NEXT]->(b:Token)
WHERE r.run = $before
MATCH (a)-[q:NEXT]->(b)
WHERE q.run = $after
RETURN a AS token, r AS was, q AS now, b AS next
ORDER BY abs(now.surprisal - was.surprisal) DESC, next.position
LIMIT $limit

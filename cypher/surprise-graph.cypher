// Surprises of a chain
// The tokens at which the model is most surprised in a chain, each with the tokens around it; the number on an arrow is the surprisal of the token it leads to.
// $chain: string = "ce254d5f805b7567c" | the chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $peaks: integer := 3 | surprises
// $limit: integer := 50 | transitions at most
// returns token: node
// returns next_is: relationship, NEXT
// returns next: node
MATCH (:Token {chain: $chain})-[r:NEXT]->(t:Token)
WHERE r.run = $run AND r.surprisal IS NOT NULL
WITH t.position AS peak, t.tokenizer AS tokenizer, r.surprisal AS surprisal ORDER BY surprisal DESC, peak LIMIT $peaks
MATCH (a:Token {chain: $chain})-[n:NEXT]->(b:Token)
WHERE n.run = $run AND b.tokenizer = tokenizer AND b.position > peak - 4 AND b.position <= peak + 2
RETURN DISTINCT a AS token, n AS next_is, b AS next
ORDER BY token.position
LIMIT $limit

// Neighbourhood of a token
// What stands before and after a token, how often, and how surprising the token and its successor are there.
// $piece: string = " therefore" | the token as shown, with its leading space
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 30 | rows at most
// returns before: string, the token before
// returns after: string, the token after
// returns count: integer, occurrences
// returns surprisal: float, nats, of the token, mean
// returns next_surprisal: float, nats, of its successor, mean
MATCH (t:Token {piece: $piece})-[q:NEXT]->(b:Token)
MATCH (a:Token)-[r:NEXT]->(t)
WHERE r.run = q.run AND r.run = $run
  AND ($home = '' OR EXISTS { (:Chain {id: t.chain})<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
RETURN a.piece AS before, b.piece AS after, count(t) AS count, avg(r.surprisal) AS surprisal, avg(q.surprisal) AS next_surprisal
ORDER BY count DESC, before, after
LIMIT $limit

// Shared transitions of two chains
// Pairs of consecutive tokens that occur in both chains, with the mean surprisal of the second token in each.
// $first: string = "ce254d5f805b7567c" | a chain's id
// $second: string = "ca571426894303bd6" | another chain's id
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $limit: integer := 100 | rows at most
// returns piece: string, first token of the pair
// returns next: string, second token
// returns in_first: integer, occurrences in the first chain
// returns in_second: integer, occurrences in the second chain
// returns surprisal_first: float, nats, mean over occurrences
// returns surprisal_second: float, nats, mean over occurrences
// returns difference: float, nats, second minus first
UNWIND [$first, $second] AS id
MATCH (a:Token {chain: id})-[r:NEXT]->(b:Token)
WHERE r.run = $run
WITH a.tokenizer AS tokenizer, a.token_id AS x, b.token_id AS y, min(a.piece) AS piece, min(b.piece) AS next,
     sum(CASE WHEN id = $first THEN 1 ELSE 0 END) AS in_first,
     sum(CASE WHEN id = $second THEN 1 ELSE 0 END) AS in_second,
     avg(CASE WHEN id = $first THEN r.surprisal END) AS surprisal_first,
     avg(CASE WHEN id = $second THEN r.surprisal END) AS surprisal_second
WHERE in_first > 0 AND in_second > 0
RETURN piece, next, in_first, in_second, surprisal_first, surprisal_second,
       surprisal_second - surprisal_first AS difference
ORDER BY in_first + in_second DESC, x, y
LIMIT $limit

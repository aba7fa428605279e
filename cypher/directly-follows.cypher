// Directly-follows counts of roles
// Which role follows which, how often, and how often it would if roles were independent.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 300 | rows at most
// returns role: string
// returns next: string, role of the next step
// returns count: integer, pairs of steps
// returns expected: float, pairs of steps by chance, from how often each role comes first and second
// returns nll: float, nats per token of the later step, given everything before
// returns premise_usefulness: float, nats per token that the earlier step saves; null if not measured
MATCH (s:Step)-[l:LEADS_TO]->(:Step)
WHERE l.run = $run AND ($home = '' OR EXISTS { (:Chain {id: s.chain})<-[:HOLDS {run: $run}]-(:Home {id: $home}) })
WITH l.roles AS roles, count(l) AS n, avg(l.nll_given_all) AS nll, avg(l.premise_usefulness) AS useful
WITH split(roles, '>')[0] AS role, split(roles, '>')[1] AS next, n, nll, useful
WITH next, sum(n) AS as_second, collect({role: role, n: n, nll: nll, useful: useful}) AS firsts
UNWIND firsts AS pair
WITH pair.role AS role, sum(pair.n) AS as_first,
     collect({next: next, as_second: as_second, n: pair.n, nll: pair.nll, useful: pair.useful}) AS seconds
WITH collect({role: role, as_first: as_first, seconds: seconds}) AS groups, sum(as_first) AS total
UNWIND groups AS of_role
UNWIND of_role.seconds AS pair
RETURN of_role.role AS role, pair.next AS next, pair.n AS count, 1.0 * of_role.as_first * pair.as_second / total AS expected,
       pair.nll AS nll, pair.useful AS premise_usefulness
ORDER BY count DESC, role, next
LIMIT $limit

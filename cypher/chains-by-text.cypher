// Chains by text
// Chains whose text or question contains a phrase.
// $text: string = "substance" | the phrase, upper and lower case as written
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns chain: string, id
// returns source: string
// returns source_id: string
// returns roles: string, roles of its steps
// returns question: string, its first 80 characters
// returns text: string, its first 80 characters
MATCH (c:Chain)
WHERE (c.text CONTAINS $text OR c.question CONTAINS $text)
  AND ($home = '' OR EXISTS { (c)<-[:HOLDS]-(:Home {id: $home}) })
RETURN c.id AS chain, c.source AS source, c.source_id AS source_id, c.roles AS roles,
       substring(c.question, 0, 80) AS question, substring(c.text, 0, 80) AS text
ORDER BY source, source_id, chain
LIMIT $limit

// Similar steps as a picture
// Pairs of steps of different chains that are nearest in whitened hidden space, by their excess over the control. Needs: trails overlaps --kind near.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 8 | pairs at most
// returns step: node
// returns similar: relationship, SIMILAR
// returns other: node
MATCH (a:Step)-[r:SIMILAR]->(b:Step)
WHERE r.run = $run AND ($home = '' OR r.home = $home) AND a.chain <> b.chain
RETURN a AS step, r AS similar, b AS other
ORDER BY similar.excess DESC, step.id, other.id
LIMIT $limit

// Similar steps
// Steps near a step in whitened hidden space, with the excess over the control. Needs: trails overlaps --kind near.
// $step: string = "ce254d5f805b7567c:1" | the step's id: chain:index
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns other: string, id of the similar step
// returns role: string
// returns text: string
// returns cosine: float, -1..1, after whitening
// returns excess: float, -2..2, cosine minus the control's quantile
// returns layer: integer
// returns run: string, id
MATCH (s:Step {id: $step})-[r:SIMILAR]-(o:Step)
WHERE r.run = $run AND ($home = '' OR r.home = $home)
RETURN o.id AS other, o.role AS role, o.text AS text, r.cosine AS cosine, r.excess AS excess, r.layer AS layer, r.run AS run
ORDER BY cosine DESC, other, run
LIMIT $limit

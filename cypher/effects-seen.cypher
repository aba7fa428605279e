// Where effects are seen
// Steps that show an effect of the registry, beside the share of steps that do and the share that does by chance. Needs:
// trails effects scan.
// $effect: string := "" | name of an effect; empty = all
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 50 | rows at most
// returns effect: string, name
// returns step: string, id
// returns text: string, the step
// returns value: float, how strongly, in the unit of the effect
// returns share: float, 0..1, of all steps
// returns by_chance: float, 0..1, of the control
// returns run: string, id
MATCH (e:Effect)-[r:SEEN_IN]->(s:Step)
WHERE ($effect = '' OR e.name = $effect) AND r.run = $run AND ($home = '' OR e.id ENDS WITH '@' + substring($home, 0, 9))
RETURN e.name AS effect, s.id AS step, s.text AS text, r.value AS value, e.share AS share, e.by_chance AS by_chance, r.run AS run
ORDER BY effect, value DESC, step, run
LIMIT $limit

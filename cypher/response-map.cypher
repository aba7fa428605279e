// The response map
// What spans do to unseen probes when they stand before them, as a sentence and in numbers, each beside that of a span of as many
// tokens of another source. Needs: trails respond SPANS --probes SELECTION.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $consistent: boolean := false | only spans that move the probes the same way
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 20 | rows at most
// returns sentence: string, the row in words
// returns span: string, id of the step or chain; t… for a text
// returns layer: integer, layer where attention on it exceeds that on the other span most
// returns attention: float, 0..1
// returns drift_layer: integer, layer of the largest drift against the other span; 0 = input embeddings
// returns drift: float, 1 - cosine, minus that of the other span
// returns logit_shift: float, % total variation
// returns logit_shift_control: float, %
// returns nll_change: float, nats per token
// returns nll_change_control: float, nats per token
// returns share: float, 0..1, probes on the same side of the other span
// returns share_low: float, lower end of its 95 % interval
// returns probes: integer, their number
// returns run: string, id
MATCH (r:Response)
WHERE r.run = $run AND ($home = '' OR r.id ENDS WITH '@' + substring($home, 0, 9))
  AND (NOT $consistent OR r.consistent)
RETURN r.sentence AS sentence, r.span AS span, r.layer AS layer, r.attention AS attention, r.drift_layer AS drift_layer,
       r.drift AS drift, r.logit_shift AS logit_shift, r.logit_shift_control AS logit_shift_control,
       r.nll_change AS nll_change, r.nll_change_control AS nll_change_control, r.share AS share, r.share_low AS share_low,
       r.n_probes AS probes, r.run AS run
ORDER BY share_low DESC, span, run
LIMIT $limit

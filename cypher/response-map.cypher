// The response map
// What spans do to unseen probes when they stand before them, as a sentence and in numbers: _control is the mean of spans of as
// many tokens, _shuffled the span's own tokens in random order, and _chosen what the same choice of a layer gives for a control
// span (null with one control). Needs: trails respond SPANS --probes SELECTION.
// $run: string = "rd24d03ce8f154ddc" | a run's id
// $consistent: boolean := false | only spans that move the probes the same way
// $home: string := "" | a home's id; empty = every home
// $limit: integer := 20 | rows at most
// returns sentence: string, the row in words
// returns span: string, id of the step or chain; t… for a text
// returns layer: integer, layer where attention on it exceeds that on the control most
// returns attention: float, 0..1, in that layer
// returns attention_control: float, 0..1
// returns attention_shuffled: float, 0..1
// returns attention_chosen: float, 0..1, largest excess of a control span over the others in the layer chosen for it
// returns attention_mean: float, 0..1, mean over the layers
// returns attention_mean_control: float, 0..1
// returns drift_layer: integer, layer of the largest drift against the control; 0 = input embeddings
// returns drift: float, 1 - cosine, minus that of the control
// returns drift_shuffled: float, 1 - cosine of the shuffled tokens, minus that of the control
// returns drift_chosen: float, largest difference of a control span from the others in the layer chosen for it
// returns drift_mean: float, 1 - cosine, mean over the layers
// returns drift_mean_control: float, 1 - cosine, mean over the layers
// returns logit_shift: float, % total variation
// returns logit_shift_control: float, %
// returns logit_shift_shuffled: float, %
// returns nll_change: float, nats per token
// returns nll_change_control: float, nats per token
// returns nll_change_shuffled: float, nats per token
// returns share: float, 0..1, probes on the same side of the control
// returns share_low: float, lower end of its 95 % interval
// returns share_high: float, upper end
// returns share_shuffled: float, 0..1, probes on the same side of the shuffled tokens
// returns probes: integer, their number
// returns run: string, id
MATCH (r:Response)
WHERE r.run = $run AND ($home = '' OR r.id ENDS WITH '@' + substring($home, 0, 9))
  AND (NOT $consistent OR r.consistent)
RETURN r.sentence AS sentence, r.span AS span, r.layer AS layer, r.attention AS attention,
       r.attention_control AS attention_control, r.attention_shuffled AS attention_shuffled,
       r.attention_chosen AS attention_chosen, r.attention_mean AS attention_mean,
       r.attention_mean_control AS attention_mean_control, r.drift_layer AS drift_layer, r.drift AS drift,
       r.drift_shuffled AS drift_shuffled, r.drift_chosen AS drift_chosen, r.drift_mean AS drift_mean,
       r.drift_mean_control AS drift_mean_control, r.logit_shift AS logit_shift,
       r.logit_shift_control AS logit_shift_control, r.logit_shift_shuffled AS logit_shift_shuffled,
       r.nll_change AS nll_change, r.nll_change_control AS nll_change_control,
       r.nll_change_shuffled AS nll_change_shuffled, r.share AS share, r.share_low AS share_low,
       r.share_high AS share_high, r.share_shuffled AS share_shuffled, r.n_probes AS probes, r.run AS run
ORDER BY share_low DESC, span, run
LIMIT $limit

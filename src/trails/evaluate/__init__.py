"""What a training did: paired differences, completion recall, probes of a trained model."""

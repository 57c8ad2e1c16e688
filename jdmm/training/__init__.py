"""Training: `fit`, the loop over epochs, the train step, scores, checkpoints and devices."""

"""From a model to imagined batches: starts, rollouts, the gate, the loss through the model."""

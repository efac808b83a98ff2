"""The training of a model: the loop, the weights' moving average, checkpoints, and the folder of a run."""

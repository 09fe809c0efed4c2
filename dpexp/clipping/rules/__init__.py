"""One file an operation: how its parameters get per-sample gradients, norms and clipped sums."""

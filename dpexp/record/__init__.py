"""The run folder: everything that a run leaves behind, and its mirror on Weights & Biases."""

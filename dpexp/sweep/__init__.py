"""A grid of runs: what is there, what is to do, and who does it."""

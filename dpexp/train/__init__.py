"""Training: the deal a run makes, its steps, its evaluation, and going on after a stop."""

"""Configuration groups of dpexp: one folder a choice, one file an option."""

"""Empirical lower bounds on epsilon: what an attacker finds, held against what is claimed."""

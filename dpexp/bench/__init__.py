"""Benchmarks: time, memory and operations of clipped steps beside ordinary ones."""

"""Paper A's kernels and gradient flows, on networks small enough to be exact."""

"""A stratified split that depends on nothing but the labels, on any machine, for good."""

import random

import numpy as np

SPLIT_SEED = 0


def held_out(labels: np.ndarray, count: int) -> np.ndarray:
    """Return which samples to hold out, as booleans: `count` of them, classes in proportion.

    Each class gives its share, rounded so that the shares sum to `count` (largest remainders).
    The split is no part of the mechanism: epsilon covers the samples that train, as split here.

    Args:
        labels: int64, shape (N,).
        count: In [0, N].
    """
    is_held_out = np.zeros(len(labels), dtype=bool)
    classes, sizes = np.unique(labels, return_counts=True)
    if not len(classes):
        return is_held_out
    quotas = count * sizes / len(labels)
    shares = np.floor(quotas).astype(int)
    most_cut_first = np.argsort(shares - quotas, kind="stable")
    shares[most_cut_first[: count - shares.sum()]] += 1

    # Of all generators, only random.Random.random() promises its sequence to later versions.
    generator = random.Random(SPLIT_SEED)
    keys = np.array([generator.random() for _ in labels])
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        is_held_out[members[np.argsort(keys[members], kind="stable")[:share]]] = True
    return is_held_out

"""Epsilon for people: rounded up, so that what is printed bounds the privacy loss still."""

import math
from decimal import ROUND_CEILING, Context, Decimal

DIGITS = 4  # significant


def stated(epsilon: float) -> str:
    """Return `epsilon` with four significant digits, the least such number not below it."""
    if not math.isfinite(epsilon):
        return f"{epsilon:g}"
    context = Context(prec=DIGITS, rounding=ROUND_CEILING)
    return f"{float(context.create_decimal(Decimal(epsilon))):.{DIGITS}g}"

"""Epsilon for people: rounded up, so that what is printed bounds the privacy loss still."""

import math
from decimal import ROUND_CEILING, Context, Decimal

DIGITS = 4  # significant


def stated(epsilon: float, digits: int = DIGITS) -> str:
    """Return `epsilon` with a few significant digits, the least such number not below it."""
    if not math.isfinite(epsilon):
        return f"{epsilon:g}"
    context = Context(prec=digits, rounding=ROUND_CEILING)
    return f"{float(context.create_decimal(Decimal(epsilon))):.{digits}g}"

"""Which way each norm is taken: from two Gram matrices, or from the gradient itself.

Letters, here and in the rules: T positions an operation is shared over, D inputs of its weight
(times the kernel), p outputs. A weight gradient of sample n is G_n^T x_n, with x_n (T, D) and
G_n (T, p).
"""

from collections.abc import Callable
from typing import Literal

from dpexp.config import Algorithm, Plan

Way = Literal["ghost", "instantiate"]

# (T, D, p) -> the way to take |G^T x|.
ChooseWay = Callable[[int, int, int], Way]


def always_ghost(positions: int, inputs: int, outputs: int) -> Way:
    """Take every norm from Gram matrices: |G^T x|^2 = <x x^T, G G^T>."""
    return "ghost"


def always_instantiate(positions: int, inputs: int, outputs: int) -> Way:
    """Take every norm from the per-sample gradient."""
    return "instantiate"


def paper_rule(positions: int, inputs: int, outputs: int) -> Way:
    """Take the way that holds fewer numbers at once: ghost where 2 T^2 <= p D.

    Source: Bu, Mao & Xu 2022, arXiv:2205.10683, Section 4 (mixed ghost clipping).
    """
    return "ghost" if 2 * positions**2 <= inputs * outputs else "instantiate"


def time_rule(positions: int, inputs: int, outputs: int) -> Way:
    """Take the way with fewer operations, counting what an instantiated gradient saves later.

    Ghost costs T^2 (D + p) multiply-adds a sample. Instantiation costs T D p, but where the
    gradient is smaller than the pair (x, G) it is kept, and its clipped sum then costs D p in place
    of a weight-gradient pass of another T D p: it is nearly free.
    """
    is_kept = inputs * outputs <= positions * (inputs + outputs)
    ghost = positions**2 * (inputs + outputs)
    instantiate = inputs * outputs if is_kept else positions * inputs * outputs
    return "ghost" if ghost <= instantiate else "instantiate"


PLANS: dict[Plan, ChooseWay] = {"paper": paper_rule, "memory": paper_rule, "time": time_rule}


def choose_way(algorithm: Algorithm, plan: Plan) -> ChooseWay:
    """Return how `algorithm` takes norms; only `auto` heeds the plan, the others are fixed."""
    fixed: dict[str, ChooseWay] = {
        "ghost": always_ghost,
        "fastgradclip": always_instantiate,
        "instantiate": always_instantiate,
        "mixed_ghost": paper_rule,
    }
    return fixed.get(algorithm, PLANS[plan])

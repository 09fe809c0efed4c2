"""A2, A3, A4, A17 and the kernel columns of Table 1: what kernels look like at many states."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpexp.theory.found import Found, judge, rounded
from dpexp.theory.spectra import (
    Spectrum,
    asymmetry,
    distance_from_scalar,
    lowest_form,
    spectrum_of,
)
from dpexp.theory.states import State

ROWS = (
    "none", "batch", "large R, flat", "large R, layerwise", "small R, flat", "small R, layerwise",
)  # fmt: skip
GLOBAL_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDING = 1e-12  # relative; exact zeros of the theory come out below it in float64
FORM, EIGENVALUE, IMAGINARY = -1e-6, -1e-8, 1e-8  # the paper's claims, as our criteria have them

Look = dict[str, Any]


def kernels_of(state: State) -> dict[str, Float[Tensor, "m m"]]:
    """Return the kernel of each row of Table 1 at a state."""
    tangent = state.tangent
    return dict(
        zip(
            ROWS,
            (
                tangent.kernel,
                tangent.batch(tangent.batch_norm / 2),
                tangent.flat(state.large),
                tangent.layerwise(state.larges),
                tangent.flat(state.small),
                tangent.layerwise(state.smalls),
            ),
            strict=True,
        )
    )


def look_at(state: State) -> Look:
    """Return the measures of every kernel at a state, and of global clipping there."""
    kernels = kernels_of(state)
    seen: list[tuple[Tensor, Spectrum]] = []
    rows = {}
    for name, kernel in kernels.items():
        # Large R gives H itself, to the bit or nearly: not solved again.
        spectrum = next((s for k, s in seen if torch.equal(k, kernel)), None)
        if spectrum is None:
            spectrum = spectrum_of(kernel)
            seen.append((kernel, spectrum))
        rows[name] = {
            "asymmetry": asymmetry(kernel),
            "form": lowest_form(kernel),
            "real": spectrum.lowest_real,
            "imaginary": spectrum.largest_imaginary,
            "error": spectrum.error,
        }
    return {"rows": rows, "twin": twin_gap(state), "global": [*_global(state)]}


def twin_gap(state: State) -> float:
    """Return how far the eigenvalues of H C lie from those of C^1/2 H C^1/2, over the largest."""
    exact = torch.linalg.eigvalsh(state.tangent.flat_twin(state.small))
    general = torch.linalg.eigvals(state.tangent.flat(state.small)).real.sort().values
    return float((exact - general).abs().max() / exact.max())


def _global(state: State) -> Sequence[Mapping[str, float]]:
    """Return, for bounds that drop none, some or all samples, how far HC is from a scalar."""
    tangent = state.tangent
    bounds = [float(tangent.norms.quantile(q)) for q in GLOBAL_QUANTILES]
    looks = []
    for bound in (bounds[0] / 2, *bounds):
        kernel = tangent.flat(bound, "global")
        dropped = int((tangent.norms > bound).sum())
        looks.append(
            {
                "dropped": dropped,
                "fraction": dropped / len(tangent.norms),
                "distance": distance_from_scalar(kernel, tangent.kernel),
                "form": lowest_form(kernel) if kernel.any() else 0.0,
            }
        )
    return looks


def column(looks: Sequence[Look], row: str, measure: str) -> list[float]:
    """Return one measure of one row of Table 1 at every state."""
    return [look["rows"][row][measure] for look in looks]


def table_of(looks: Sequence[Look]) -> dict[str, dict[str, int]]:
    """Return, for each row of Table 1, at how many states each of its kernel columns holds."""
    return {
        row: {
            "symmetric": sum(x < ROUNDING for x in column(looks, row, "asymmetry")),
            "form": sum(x > EIGENVALUE for x in column(looks, row, "form")),
            "eigenvalues": sum(
                real > EIGENVALUE and imaginary < IMAGINARY
                for real, imaginary in zip(
                    column(looks, row, "real"), column(looks, row, "imaginary"), strict=True
                )
            ),
        }
        for row in ROWS
    }


def judge_spectra(looks: Sequence[Look]) -> Found:
    """Judge A2, A3, A4 and A17 on looks at many states."""
    flat = {m: column(looks, "small R, flat", m) for m in looks[0]["rows"]["none"]}
    layerwise = {m: column(looks, "small R, layerwise", m) for m in flat}
    numbers = {
        "states": len(looks),
        "table": table_of(looks),
        "flat": {m: rounded(v) for m, v in flat.items()},
        "layerwise": {m: rounded(v) for m, v in layerwise.items()},
        "unclipped form": rounded(column(looks, "none", "form")),
        "twin": rounded([look["twin"] for look in looks]),
        "global": [[rounded(list(g.values())) for g in look["global"]] for look in looks],
    }
    verdicts = [_a2(flat, looks), _a3(flat, looks), _a4(layerwise), _a17(looks)]
    return Found(verdicts, {"spectra": numbers})


def _a2(flat: Mapping[str, list[float]], looks: Sequence[Look]) -> Any:
    least, real = min(flat["asymmetry"]), min(flat["real"])
    imaginary, twin = max(flat["imaginary"]), max(look["twin"] for look in looks)
    return judge(
        "A2",
        is_met=least > 1e-3 and real > EIGENVALUE and imaginary < IMAGINARY,
        ours=f"{len(looks)} states: asymmetry at least {least:.3g} of the norm; real parts at "
        f"least {real:.2g} and imaginary parts at most {imaginary:.2g} of the largest eigenvalue; "
        f"eigenvalues equal those of C^1/2 H C^1/2 to {twin:.1g}",
        value=least,
    )


def _a3(flat: Mapping[str, list[float]], looks: Sequence[Look]) -> Any:
    negative = sum(x < FORM for x in flat["form"])
    unclipped = min(column(looks, "none", "form"))
    return judge(
        "A3",
        is_met=negative > 0,
        ours=f"negative as a quadratic form in {negative} of {len(looks)} states; lowest "
        f"{min(flat['form']):.3g} of the largest eigenvalue of (HC + CH)/2; of H itself at least "
        f"{unclipped:.1g}",
        value=min(flat["form"]),
    )


def _a4(layerwise: Mapping[str, list[float]]) -> Any:
    real = [x < FORM for x in layerwise["real"]]
    imaginary = [x > -FORM for x in layerwise["imaginary"]]
    either = sum(r or i for r, i in zip(real, imaginary, strict=True))
    return judge(
        "A4",
        is_met=either > 0,
        ours=f"complex in {sum(imaginary)} and with a negative real part in {sum(real)} of "
        f"{len(real)} states (either: {either}); imaginary part up to "
        f"{max(layerwise['imaginary']):.2g}, real part down to {min(layerwise['real']):.2g} of "
        f"the largest eigenvalue, rounding below {max(layerwise['error']):.1g}",
        value=max(layerwise["imaginary"]),
    )


def _a17(looks: Sequence[Look]) -> Any:
    found = [g for look in looks for g in look["global"]]
    some = [g for g in found if 0 < g["fraction"] < 1]
    rest = [g for g in found if not 0 < g["fraction"] < 1]
    scalar_some = sum(g["distance"] < ROUNDING for g in some)
    scalar_rest = sum(g["distance"] < ROUNDING for g in rest)
    least = min((g["distance"] for g in some), default=0.0)
    return judge(
        "A17",
        is_met=bool(some) and scalar_some == len(some),
        ours=f"a scalar times H in {scalar_some} of {len(some)} cases with some but not all "
        f"samples dropped (least distance {least:.3g} of the norm), and in {scalar_rest} of "
        f"{len(rest)} with none or all; with some dropped, negative as a quadratic form in "
        f"{sum(g['form'] < FORM for g in some)} of {len(some)}",
        value=float(scalar_some / len(some)) if some else None,
        reason="factors 0 and 1 make a scalar only where all samples have the same one: the "
        "scalar form holds if and only if none or all samples are dropped",
    )

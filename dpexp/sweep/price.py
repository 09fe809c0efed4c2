"""What searching a grid costs in epsilon: the worst of its points, as many times as there are."""

from collections.abc import Sequence

from dpexp.accounting.search_price import SearchPrice, price_of_search
from dpexp.config import TrainConfig, claims_epsilon
from dpexp.data.public import public_num_train
from dpexp.errors import ConfigError, DpexpError
from dpexp.mechanism import Mechanism
from dpexp.sweep.point import Point


def search_price(points: Sequence[Point]) -> tuple[SearchPrice | None, str]:
    """Return what choosing the best of all points costs, or None and why it cannot be said.

    Where points differ in sigma, q, K or delta, it is the price of as many runs of the smallest
    sigma, largest q, largest K and smallest delta. Takes seconds when not cached; the runs would
    take them too.

    Raises:
        ConfigError: If a point asks for an epsilon that no noise gives; a line a problem.
    """
    if any(not claims_epsilon(point.config) for point in points):
        return None, "a point without noise bounds nothing, and so does a choice among them"
    if any(point.config.protocol == "published" for point in points):
        return None, "protocol=published carries no guarantee, and so does a choice among such runs"
    if any(point.config.sampling != "poisson" for point in points):
        return None, "the bounds on a search are for sampling=poisson"
    sizes = {id(point): public_num_train(point.config.dataset) for point in points}
    if None in sizes.values():
        return None, "N is counted when the data are opened; give dataset.num_train to know it now"
    unique: dict[tuple[object, ...], tuple[Point, int]] = {}
    for point in points:
        size = sizes[id(point)]
        assert size is not None
        unique.setdefault(_terms(point.config, size), (point, size))
    mechanisms, problems = [], []
    for point, size in unique.values():
        try:
            mechanisms.append(_mechanism(point.config, size))
        except DpexpError as error:
            problems += [f"{point.name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(problems))
    price = price_of_search(
        min(m.noise_multiplier for m in mechanisms),
        max(m.sampling_rate for m in mechanisms),
        max(m.num_steps for m in mechanisms),
        len(points),
        min(point.config.delta for point in points),
    )
    return price, "" if len(unique) == 1 else "priced as the worst of them in sigma, q, K and delta"


def _terms(config: TrainConfig, num_train: int) -> tuple[object, ...]:
    """Return all that sigma, q and K follow from."""
    noise = (config.eps, config.noise_multiplier, config.delta)
    return (
        *noise,
        config.batch,
        config.epochs,
        config.steps,
        num_train,
        config.clipping.tail_steps,
    )


def _mechanism(config: TrainConfig, num_train: int) -> Mechanism:
    # Imported late: a grid that is refused needs no accountant. R does not move sigma.
    from dpexp.train.deal import make_deal

    mechanism = make_deal(config, num_train, config.clipping.norm).mechanism
    assert mechanism is not None
    return mechanism

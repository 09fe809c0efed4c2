"""What benchmarks of the tests are asked for."""

import pytest

from dpexp.bench.request import Request
from dpexp.cli.compose import compose


@pytest.fixture
def request_of():
    """Words of a run -> what a benchmark is asked for, small and written nowhere."""

    def make(*words, **own):
        config = compose(["batch=6", "dp=off", *words], command="bench")
        given = {"algorithms": (), "styles": ("flat",), "rounds": 2, "memory_gib": 1.0}
        return Request(**{**given, "config": config, "output": None, "command": ["dpexp"], **own})

    return make

"""What a configuration promises falsely is refused before a run."""

import math

import pytest

from dpexp.config import ClippingConfig, TrainConfig, check
from dpexp.errors import ConfigError


@pytest.mark.parametrize("noise", [{"eps": 4.0}, {"eps": None, "noise_multiplier": 1.0}])
def test_no_epsilon_is_promised_where_nothing_is_clipped(noise):
    clipping = ClippingConfig(algorithm="nonprivate")
    with pytest.raises(ConfigError, match=r"clipping.algorithm=nonprivate: nothing is clipped"):
        check(TrainConfig(clipping=clipping, **noise))
    check(TrainConfig(**noise))


def test_without_noise_nothing_need_be_clipped():
    clipping = ClippingConfig(algorithm="nonprivate")
    check(TrainConfig(clipping=clipping, eps=math.inf))
    check(TrainConfig(clipping=clipping, eps=None, noise_multiplier=0.0))
    check(TrainConfig(clipping=clipping, dp=False))

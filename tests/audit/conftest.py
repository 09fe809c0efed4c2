"""One small audit's model and data, loaded once."""

import pytest
import torch

from dpexp.audit.subject import load_materials
from dpexp.cli.audit import read
from dpexp.train.deal import make_deal

# Claims epsilon 2.3 at delta 1e-5.
SMALL = (
    "steps=6", "batch=512", "noise_multiplier=2", "audit.canaries=2000", "audit.steps=4",
    "audit.trials=120", "audit.images=400",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small():
    """Return a request, with words on top, and what it needs."""

    def make(*words):
        request = read([*SMALL, *words])
        materials = load_materials(request.config, lambda line: None)
        num_train = materials.splits.num_train
        deal = make_deal(request.config, num_train, request.config.clipping.norm)
        return request, materials, deal

    return make

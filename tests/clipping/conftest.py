"""Stricter than training: a warning is an error, but for torch's remarks on its own parts."""

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "clipping" in item.path.parts[-2]:
            item.add_marker(pytest.mark.filterwarnings("error"))
            item.add_marker(pytest.mark.filterwarnings("ignore:There is a performance drop"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Using padding='same' with even"))
            item.add_marker(pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"))

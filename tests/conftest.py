"""What every test shares: one thread (models are tiny, test files run side by side), a seed, no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start
torch.set_num_threads(1)

# The same examples every time, and no test that fails for a slow machine.
settings.register_profile("codi", derandomize=True, database=None, deadline=None)
settings.load_profile("codi")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # again: the quickstart takes two


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real benchmark files, which are not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("CODI_SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip("the real data files are not here (set CODI_SHARED_DATA)")
    return path

"""Options of the whole suite, and the profiles of its property tests: the same examples in every run, or nightly others."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: processes and workers are compared with this one, bit by bit

import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=5000, deadline=None, database=None)
settings.load_profile(os.environ.get("TORCHTHIN_HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-zoo",
        action="store_true",
        help="tests/zoo: every model of torchvision and transformers, not only the quick ones (an hour and 16 GB)",
    )

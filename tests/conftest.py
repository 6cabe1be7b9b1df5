"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-zoo",
        action="store_true",
        help="tests/zoo: every model of torchvision and transformers, not only the quick ones (an hour and 16 GB)",
    )

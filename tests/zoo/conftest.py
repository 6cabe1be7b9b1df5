"""Which models of the zoo are collected: the quick ones, or all with ``--whole-zoo``."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

QUICK = (
    "efficientnet_b0",
    "googlenet",
    "lraspp_mobilenet_v3_large",
    "mc3_18",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "bert",
    "llama",
    "t5",
    "whisper",
    "vit",
    "swin",
    "convnext",
    "resnet-hf",
    "segformer",
    "wav2vec2",
    "clip",
)
"""The smallest of each family, and what is odd about a family."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for a `case` one item per model, without those that the run did not ask for."""
    if "case" in metafunc.fixturenames:
        from zoo import cases

        known = cases()
        names = list(known) if metafunc.config.getoption("--whole-zoo") else QUICK
        metafunc.parametrize("case", [known[name] for name in names], ids=names)

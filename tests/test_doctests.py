"""The examples in docstrings run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "torchthin").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module: str) -> None:
    names = {"torch": torch, "nn": nn}
    results = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert {
        "torchthin.selection.schedule",
        "torchthin.selection.channels",
        "torchthin.api",
    } <= set(WITH_EXAMPLES)

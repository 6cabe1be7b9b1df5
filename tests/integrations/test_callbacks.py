"""The callbacks step when they should, hold the masks, and resume bit for bit; their modules import without the extras."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Running, as_foreign_program
from torch import nn

from torchthin import InputError, Pruner
from torchthin.integrations.callbacks import check_arguments

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("program", "needs"), [("lightning_program", "lightning"), ("hf_program", "accelerate")]
)
def test_a_run_that_is_resumed_ends_like_one_that_was_not(program: str, needs: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    done = Running(as_foreign_program, HERE / f"{program}.py", folder=tmp_path).outcome()
    assert done.code == 0, done.err[-3000:]


@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("hf", "transformers")])
def test_without_the_extra_only_the_class_is_missing(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"torchthin.integrations.{name}")
    for loaded in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"pip install 'torchthin\[{name}\]'"):
        module.PruneCallback  # noqa: B018
    with pytest.raises(AttributeError):
        module.PrunerCallback  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "epoch", False), "must be a torchthin.Pruner. Got NoneType"),
        (
            ("made", "batch", False),
            "must be 'epoch' or a number of optimizer steps of at least 1. Got 'batch'",
        ),
        (("made", 0, False), "Got 0"),
        (("made", True, False), "Got True"),
        (("made", 1, "yes"), "thin of PruneCallback must be true or false. Got 'yes'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    given, *rest = arguments
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    pruner = Pruner(net, torch.randn(1, 3, 8, 8)) if given else None
    with pytest.raises(InputError, match=message):
        check_arguments(pruner, *rest)

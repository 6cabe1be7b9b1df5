"""Modules of ADI's ai8x need a chip before they can be made, and choose their functions by what a checkpoint says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import torchthin
from torchthin.errors import FactoryError
from torchthin.io.factory import build_model

AI8X = """
dev = None

def set_device(device, simulate, round_avg, verbose=True):
    global dev
    dev = (device, simulate, round_avg)
"""
NETS = """
import ai8x
from torch import nn

def ai85net(bias=False, **kwargs):
    assert ai8x.dev is not None
    assert bias, "`bias` must be set (enable --use-bias for models where bias is optional)"
    return nn.Conv2d(3, 4, 3)

ai87net = ai85net
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "ai8x.py").write_text(AI8X)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "ai8x", raising=False)
    yield tmp_path
    sys.modules.pop("ai8x", None)


@pytest.mark.parametrize(("name", "device"), [("ai85net", 85), ("ai87net", 87)])
def test_the_chip_is_chosen_where_nobody_has(place: Path, name: str, device: int) -> None:
    build_model(f"nets.py:{name}", {"bias": True})
    assert sys.modules["ai8x"].dev == (device, False, False)


def test_a_chip_that_was_chosen_stays(place: Path) -> None:
    build_model("nets.py:ai85net", {"bias": True})
    sys.modules["ai8x"].set_device(87, True, True)
    build_model("nets.py:ai85net", {"bias": True})
    assert sys.modules["ai8x"].dev == (87, True, True)


def test_an_argument_that_an_error_names_is_explained(place: Path) -> None:
    with pytest.raises(FactoryError, match=r"""Give --factory-args '\{"bias": \.\.\.\}'"""):
        build_model("nets.py:ai85net")


class Layer(nn.Module):
    """Has settings as ai8x-training saves them, and functions that follow them."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight_bits", "quantize_activation"):
            setattr(self, name, nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False))
        self.op = nn.Conv2d(3, 4, 3)
        self.set_functions()

    def set_functions(self) -> None:
        self.bits = int(self.weight_bits)


def test_functions_follow_the_settings_of_a_checkpoint(tmp_path: Path) -> None:
    state = Layer().state_dict()
    state["weight_bits"] = torch.tensor([4])
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "qat.pth.tar")
    assert torchthin.load(Layer(), tmp_path / "qat.pth.tar").bits == 4

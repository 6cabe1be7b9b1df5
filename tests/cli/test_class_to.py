"""torchthin prune --class-to: the class at its new widths, which `--save-to`'s weights fit."""

from pathlib import Path

import pytest
import torch
from workplace import Workplace

from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model

CHAIN = """
from torch import nn

def chain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))

class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.a(x)
        return x + self.b(x)
"""
MODEL = ("--model-factory", "chain.py:chain", "--input-shape", "1,3,8,8")


@pytest.fixture(autouse=True)
def chain(place: Workplace) -> None:
    Path("chain.py").write_text(CHAIN)


def test_the_written_class_loads_the_written_weights(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--thin", "--class-to", "thin.py", "--save-to", "thin.pth")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Saved thin.py: the class ThinSequential" in outcome.out
    model = build_model("thin.py:ThinSequential")
    model.load_state_dict(read_checkpoint("thin.pth").state_dict, strict=True)
    assert model.get_parameter("0.weight").shape == torch.Size([4, 3, 3, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class-to", "thin.py"), "needs --thin"),
        (("--class-to", "thin.txt", "--thin"), "must end in .py"),
        (("--class-to", "chain.py", "--thin"), "must not be the model's own"),
        (("--class-to", "x.py", "--save-to", "x.py", "--thin"), "must differ"),
        (
            (
                *("--model-factory", "chain.py:Skips", "--thin", "--class-to", "thin.py"),
                *("--training-to", "t.pth", "--arch", "skips", "--save-to", "s.pth"),
            ),
            "breaks at torch.Tensor.add after b (chain.py, line 14)",
        ),
    ],
)
def test_what_is_refused(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, *MODEL, *arguments)

"""torchthin prune --class-to: the class at its new widths, which `--save-to`'s weights fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from workplace import Workplace

import torchthin
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model

CHAIN = """
import torch
from torch import nn

def chain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))

class Skips(nn.Module):
    def __init__(self, width=8, **options):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1)
        self.c = nn.Conv2d(2 * width, 4, 1)
        self.register_buffer("scale", torch.arange(1.0, 1 + width), persistent=False)
        self.sizes = {"widths": (width, 3)}

    def forward(self, x):
        x = self.a(x).reshape(len(x), self.sizes["widths"][0], *x.shape[2:])
        return self.c(torch.cat([x, x * self.scale[:, None, None] + self.b(x)], 1))
"""
MODEL = ("--model-factory", "chain.py:chain", "--input-shape", "1,3,8,8")


@pytest.fixture(autouse=True)
def chain(place: Workplace) -> None:
    Path("chain.py").write_text(CHAIN)


def test_the_written_class_loads_the_written_weights(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--thin", "--class-to", "thin.py", "--save-to", "thin.pth")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Saved thin.py: ThinSequential() builds the class" in outcome.out
    model = build_model("thin.py:ThinSequential")
    model.load_state_dict(read_checkpoint("thin.pth").state_dict, strict=True)
    assert model.get_parameter("0.weight").shape == torch.Size([4, 3, 3, 3])


def test_any_other_model_is_built_by_its_factory_and_made_smaller(place: Workplace) -> None:
    """With two branches, numbers in a dict, and a buffer that no file holds."""
    how = ("--factory-args", json.dumps({"width": 12}), "--input-shape", "2,3,8,8")
    files = ("--class-to", "thin.py", "--save-to", "thin.pth")
    outcome = place.run("--model-factory", "chain.py:Skips", *how, "--thin", *files)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Saved thin.py: thinskips() builds the class" in outcome.out
    full, model = (
        build_model("chain.py:Skips", {"width": 12}),
        build_model("thin.py:thinskips", {"epochs": 3}),
    )
    model.load_state_dict(read_checkpoint("thin.pth").state_dict, strict=True)
    assert model.a.weight.shape[0] == 6 and model.sizes == {"widths": (6, 3)}
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(model(x), torchthin.load(full, "thin.pth")(x))


def test_a_bias_that_a_layer_got_is_in_the_file(place: Workplace) -> None:
    Path("biased.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), "
        "nn.Unflatten(1, (1, 8)), nn.Flatten(1, 2), nn.Conv2d(8, 4, 1, bias=False))\n"
    )
    options = ("--model-factory", "biased.py:net", "--input-shape", "1,3,8,8", "--add-biases", "--thin")
    outcome = place.run(*options, "--class-to", "thin.py", "--save-to", "thin.pth")
    assert (outcome.code, outcome.err) == (0, "")
    state = read_checkpoint("thin.pth").state_dict
    assert "4.bias" in state
    build_model("thin.py:thinnet").load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class-to", "thin.py"), "needs --thin"),
        (("--class-to", "thin.txt", "--thin"), "must end in .py"),
        (("--class-to", "chain.py", "--thin"), "must not be the model's own"),
        (("--class-to", "x.py", "--save-to", "x.py", "--thin"), "must differ"),
    ],
)
def test_what_is_refused(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, *MODEL, *arguments)


def test_a_residual_network_of_ai8x_layers_is_found_by_train_py(place: Workplace) -> None:
    Path("residual.py").write_text(
        "from torch import nn\n"
        "from torchthin.max7800x.ai8x.layers import Add, Conv2d, FusedConv2dBNReLU\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.second = FusedConv2dBNReLU(3, 8, 3, padding=1), FusedConv2dBNReLU(8, 8, 3, padding=1)\n"
        "        self.add, self.last = Add(), Conv2d(8, 4, 1, wide=True)\n\n"
        "    def forward(self, x):\n"
        "        x = self.first(x)\n"
        "        return self.last(self.add(x, self.second(x)))\n\n"
        "def net(pretrained=False, **kwargs):\n"
        "    return Net()\n"
    )
    options = ("--model-factory", "residual.py:net", "--input-shape", "1,3,8,8", "--thin")
    outcome = place.run(*options, "--class-to", "thin.py", "--save-to", "thin.pth")
    assert (outcome.code, outcome.err) == (0, "")
    scope: dict[str, Any] = {}
    exec(Path("thin.py").read_text(), scope)
    assert scope["models"] == [{"name": "thinnet", "min_input": 1, "dim": 2}]
    model = scope["thinnet"](pretrained=False, num_classes=4, num_channels=3)
    model.load_state_dict(read_checkpoint("thin.pth").state_dict, strict=True)
    assert model.second.op.weight.shape == torch.Size([4, 4, 3, 3])

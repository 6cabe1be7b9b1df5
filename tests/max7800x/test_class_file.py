"""A class file builds the thin model anew: strict state dict, equal outputs; anything but a plain chain is refused."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import InputError
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat
from torchthin.max7800x.ai8x.layers import (
    AvgPool2d,
    Conv2d,
    FusedAvgPoolConv2dReLU,
    FusedConv2dBN,
    FusedConv2dBNReLU,
    FusedLinearReLU,
    FusedMaxPoolConv2dBNReLU,
    Linear,
    MaxPool2d,
)
from torchthin.max7800x.class_file.expressions import TORCH_LAYERS, expression
from torchthin.max7800x.class_file.source import class_source, save_class

IMAGES = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


class Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out, momentum=0.2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        return self.act(self.bn(self.conv(x)))


class Plain(nn.Module):
    """Blocks, a Sequential with gaps of functions between, a ModuleList, layers that only count in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Block(3, 16)
        self.features = nn.Sequential(Block(16, 24), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Conv2d(24, 8, 1))
        self.rest = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, (1, 3), padding=(0, 1))])
        self.fc = nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.features(self.stem(x))
        for layer in self.rest:
            x = nn.functional.relu(layer(x))
        return self.fc(x.view(x.size(0), -1))


class Ai8x(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = FusedConv2dBNReLU(3, 16, 3, padding=1, eps=1e-3)
        self.b = FusedMaxPoolConv2dBNReLU(16, 24, 3, padding=1, batchnorm="NoAffine")
        self.c = FusedAvgPoolConv2dReLU(24, 16, 1, bias=False)
        self.d = FusedConv2dBN(16, 16, 1, activation="ReLU", momentum=0.1)
        self.e = Conv2d(16, 16, 3, pooling="Max", pool_size=3, pool_stride=1, padding=2)
        self.pools = nn.Sequential(MaxPool2d(2), AvgPool2d(2, 1))
        self.fc = FusedLinearReLU(16, 12, bias=True)
        self.out = Linear(12, 5, wide=True)

    def forward(self, x: Tensor) -> Any:
        x = self.pools(self.e(self.d(self.c(self.b(self.a(x))))))
        return self.out(self.fc(torch.flatten(x, 1)))


def module_of(text: str) -> ModuleType:
    module = ModuleType("written")
    exec(text, module.__dict__)
    return module


def thinned(model: nn.Module) -> nn.Module:
    result = torchthin.prune(model.eval(), IMAGES, 0.5)
    assert result.recipe
    return result.model


def qat() -> nn.Module:
    model = Ai8x().eval()
    fuse_batch_norm_(model)
    initiate_qat(model)
    return model


@pytest.mark.parametrize("make", [Plain, Ai8x, qat])
def test_the_class_is_the_thin_model(make: Any) -> None:
    torch.manual_seed(0)
    thin = thinned(make())
    name, text = class_source(thin, IMAGES)
    torch.manual_seed(1)
    made = getattr(module_of(text), name)()
    made.load_state_dict(thin.state_dict(), strict=True)
    assert list(made.state_dict()) == list(thin.state_dict())
    fresh = torch.randn(3, 3, 16, 16).clamp(-1, 1)
    assert torch.equal(made.eval()(fresh), thin.eval()(fresh))


def test_what_counts_in_training_only_is_there_as_well() -> None:
    name, text = class_source(thinned(Plain()), IMAGES)
    made = getattr(module_of(text), name)()
    assert made.features[2].p == 0.3
    assert made.stem.bn.momentum == 0.2
    assert type(made.features) is nn.Sequential and type(made.rest) is nn.ModuleList


def test_how_it_reads() -> None:
    _, text = class_source(thinned(Plain()), IMAGES)
    for line in (
        "class ThinPlain(nn.Module):",
        "        self.stem.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)",
        "        self.features.append(nn.Module())",
        "        self.features[0].conv = nn.Conv2d(8, 12, 3, padding=1, bias=False)",
        "        self.rest.append(nn.Conv2d(4, 4, (1, 3), padding=(0, 1)))",
        "        x = self.rest[1](x)\n        x = torch.relu(x)\n        x = x.flatten(1)\n        x = self.fc(x)",
    ):
        assert f"{line}\n" in text
    assert "models = [" not in text


def test_what_train_py_looks_for() -> None:
    _, text = class_source(thinned(Ai8x()), IMAGES)
    assert "self.b = ai8x.FusedMaxPoolConv2dBNReLU(8, 12, 3, padding=1, bias=True, " in text
    module = module_of(text)
    (entry,) = module.models
    assert (entry["min_input"], entry["dim"]) == (1, 2)
    built = getattr(module, entry["name"])(pretrained=False, num_classes=5, dimensions=(16, 16), bias=True)
    assert type(built).__name__ == "ThinAi8x"


def test_every_layer_of_the_table_keeps_its_arguments() -> None:
    unusual = {
        "bias": False, "kernel_size": 3, "stride": 2, "inplace": True, "eps": 1e-3, "p": 0.2, "dim": 1,
        "negative_slope": 0.3, "affine": False, "padding_mode": "reflect", "ceil_mode": True, "alpha": 0.7,
    }  # fmt: skip
    required = {
        "in_channels": 4, "out_channels": 6, "in_features": 4, "out_features": 6, "num_features": 4,
        "output_size": 2, "padding": 1,
    }  # fmt: skip
    import inspect

    for kind in TORCH_LAYERS:
        if kind in (nn.Identity,):
            continue
        given = {}
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if "Transpose" in kind.__name__ and name == "padding_mode":
                continue
            if name in unusual:
                given[name] = unusual[name]
            elif parameter.default is parameter.empty and name in required:
                given[name] = required[name]
        layer = kind(**given)
        again = eval(expression(layer), {"nn": nn})
        for name in given:
            assert getattr(again, name) == getattr(layer, name) or name == "bias", (kind, name)
        assert repr(again) == repr(layer)
        assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in layer.parameters()]


def two(forward: Any) -> nn.Module:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return Two()


def skip(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x + net.b(x)


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(3, 8, 1), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (two(skip), r"breaks at torch\.Tensor\.add after b \(test_class_file\.py, line \d+\)"),
        (two(lambda net, x: net.b(net.a(x)) * 2), r"torch\.Tensor\.mul after b"),
        (two(lambda net, x: [net.a(x), net.b(net.a(x))]), "at a: it is not given what a gave"),
        (two(lambda net, x: (net.b(net.a(x)),)), "at its end: forward returns no single tensor"),
        (two(lambda net, x: net.b(net.a(x)).mul_(2)), r"breaks at .*mul_"),
        (two(lambda net, x: net.b(net.a(x).flip(2))), r"torch\.Tensor\.flip after a"),
        (two(lambda net, x: nn.functional.max_pool2d(net.a(x), 2)), "max_pool2d after a"),
        (nn.Sequential(Scaled(3, 8, 1), nn.Conv2d(8, 4, 1)), "conv2d"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.GLU(1)), "glu after 0"),
        (OwnValue(), "gain belongs to no known layer"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2, return_indices=True)), "1: it returns no single"),
    ],
)  # fmt: skip
def test_where_the_chain_breaks(tmp_path: Path, model: nn.Module, message: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as raised:
        save_class(tmp_path / "thin.py", model, IMAGES)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_file(tmp_path: Path) -> None:
    thin = thinned(Plain())
    assert save_class(tmp_path / "new" / "thin.py", thin, IMAGES) == "ThinPlain"
    assert (tmp_path / "new" / "thin.py").read_text() == class_source(thin, IMAGES)[1]

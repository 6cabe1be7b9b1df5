"""Law: integers that the code uses as sizes follow a cut wherever a module keeps them; no other integer ever changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from nets.laws import masked_net
from nets.small import lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin

Parts = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Config:
    half: int
    steps: int = 16


class Sizes(NamedTuple):
    low: int
    high: int


class Halves(nn.Module):
    """A layer's result in two halves, of which one goes through another layer."""

    def __init__(self, parts: Callable[[Any, Tensor], Parts], width: int = 32, **sizes: Any) -> None:
        super().__init__()
        self.parts = parts
        self.expand, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.inner = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        for name, value in sizes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.parts(self, self.expand(x))
        return self.last(torch.cat([a, self.inner(b).relu()], 1))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape, self.scale = (width, 1, 1), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class ChannelsFirstNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalized_shape = (width,)
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, 1e-6)
        return y.permute(0, 3, 1, 2)


def halved(module: Any, y: Tensor) -> Parts:
    low, high = y.split(module.half, 1)
    return low, high


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "chunks": lambda: Halves(lambda _, y: y.chunk(2, 1)),
    "attribute": lambda: Halves(halved, half=16),
    "half of an attribute": lambda: Halves(lambda s, y: y.split(s.dim // 2, 1), dim=32),
    "list": lambda: Halves(lambda s, y: y.split(s.sizes, 1), sizes=[16, 16]),
    "named tuple": lambda: Halves(lambda s, y: y.split(list(s.sizes), 1), sizes=Sizes(16, 16)),
    "end of a range": lambda: Halves(lambda s, y: (y[:, : s.half], y[:, s.half :]), half=16),
    "end from behind": lambda: Halves(lambda s, y: (y[:, : -s.half], y[:, -s.half :]), half=16),
    "half as an end": lambda: Halves(lambda s, y: (y[:, : s.dim // 2], y[:, s.dim // 2 :]), dim=32),
    "rest of the axis": lambda: Halves(lambda s, y: y.split([s.half, y.shape[1] - s.half], 1), half=16),
    "narrow": lambda: Halves(lambda s, y: (y.narrow(1, 0, s.half), y.narrow(1, s.half, s.half)), half=16),
    "dataclass": lambda: Halves(lambda s, y: y.split(s.config.half, 1), config=Config(16)),
    "object": lambda: Halves(lambda s, y: y.split(s.config.a.half, 1), config=SimpleNamespace(a=Config(16))),
    "dict": lambda: Halves(lambda s, y: y.split(s.config["half"], 1), config={"half": 16, "steps": 16}),
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def around(block: Callable[[], nn.Module]) -> nn.Module:
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), block(), nn.ReLU(), block(), nn.Conv2d(32, 4, 1)]
    return lively(nn.Sequential(*layers)).eval()


def picture() -> Tensor:
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BLOCKS)
def test_halves_get_narrower_however_their_sizes_are_kept(name: str) -> None:
    model = around(BLOCKS[name])
    result = torchthin.prune(model, picture(), 0.5)
    assert result.proof is not None
    assert result.proof.holds
    expected = parameters(torchthin.prune(around(BLOCKS["chunks"]), picture(), 0.5).model)
    assert parameters(result.model) == expected
    assert expected < 0.29 * parameters(model)


@pytest.mark.parametrize("block", [Scale, ChannelsFirstNorm])
def test_shapes_in_tuples_follow(block: Callable[[int], nn.Module]) -> None:
    model = around(lambda: block(32))
    result = torchthin.prune(model, picture(), 0.5)
    assert result.proof is not None
    assert result.proof.holds
    assert result.model[0].out_channels == 16
    assert {16} == {tensor.numel() for tensor in result.model[2].parameters()}


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_follow_with_and_without_weights(kind: str, affine: bool) -> None:
    if not hasattr(nn, kind):  # torch before 2.4
        return
    norm = getattr(nn, kind)(64, elementwise_affine=affine)
    model = lively(
        nn.Sequential(nn.Linear(8, 64), norm, nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 5))
    ).eval()
    result = torchthin.prune(model, torch.randn(2, 6, 8), 0.5, include=["*"])
    assert result.model[0].out_features == 32
    assert result.model[1].normalized_shape == (32,)
    assert result.proof is not None
    assert result.proof.holds


def test_a_thinned_file_is_loaded_and_the_callers_objects_stay(tmp_path: Path) -> None:
    config = {"half": 16, "steps": 16}
    model = lively(
        nn.Sequential(nn.Conv2d(3, 32, 3), Halves(lambda s, y: y.split(s.config["half"], 1), config=config))
    )
    other = nn.Sequential(Halves(lambda s, y: y.split(s.config["half"], 1), config=config)).eval()
    model = nn.Sequential(*model, nn.Conv2d(32, 4, 1)).eval()
    result = torchthin.prune(model, picture(), 0.5)
    assert result.recipe.attributes["1"] == {"config.half": 8}
    assert result.model[1].config == {"half": 8, "steps": 16}
    result.save(tmp_path / "thin.pth")
    loaded = torchthin.load(copy.deepcopy(model), tmp_path / "thin.pth")
    torch.testing.assert_close(loaded(picture()), result.model(picture()))
    masked = torchthin.prune(model, picture(), 0.5, thin=False).model
    masked[1].config = config
    torchthin.thin_(masked, picture())
    assert masked[1].config == {"half": 8, "steps": 16}
    assert config == {"half": 16, "steps": 16}
    assert other[0](torch.randn(1, 32, 4, 4)).shape == (1, 32, 4, 4)


def test_one_object_of_several_modules_stays_one() -> None:
    config = SimpleNamespace(half=16)

    def parts(module: Any, y: Tensor) -> Parts:
        low, high = y.split(module.config.half, 1)
        return low, high

    model = around(lambda: Halves(parts, config=config))
    result = torchthin.prune(model, picture(), 0.5)
    assert result.model[2].config is result.model[4].config
    assert result.model[2].config.half == 8
    assert config.half == 16
    assert result.recipe.attributes["2"] == {"config.half": 8}
    assert "4" not in result.recipe.attributes


class Shared(nn.Module):
    """A block of a transformer that takes all sizes from a configuration that every block has."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.norm, self.qkv = nn.LayerNorm(config.width), nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.up, self.down = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        width, heads = self.config.width, self.config.heads
        parts = self.qkv(self.norm(x)).split(width, dim=2)
        q, k, v = (part.view(*x.shape[:2], heads, width // heads).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()
        x = x + self.out(y.view(*x.shape[:2], width))
        a, b = self.up(x).split(self.config.inner // 2, -1)
        return x + self.down(torch.cat([a.relu(), b], -1))


@pytest.mark.parametrize("scope", ["group", "global"])
def test_blocks_that_share_a_configuration_lose_equal_numbers(scope: str) -> None:
    config = SimpleNamespace(width=32, inner=64, heads=4)
    blocks = [Shared(config), Shared(config)]
    model = lively(nn.Sequential(nn.Linear(5, 32), *blocks, nn.Linear(32, 4))).eval()
    result = torchthin.prune(model, torch.randn(2, 6, 5), torchthin.Ratio(0.5, scope=scope), include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert parameters(result.model) < 0.3 * parameters(model)
    assert vars(config) == {"width": 32, "inner": 64, "heads": 4}


class Histogram(nn.Module):
    """A number of bins, compared in forward, that is the width of a layer by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = 16
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 1))
        self.tail = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.body(x).chunk(2, 1)
        y = self.tail(a * b.sigmoid())
        return y.sigmoid() if self.bins != 1 else y


class Window(nn.Module):
    """The size of a picture, compared in forward, that is the width of a layer by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 8
        self.first, self.last = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).relu().chunk(2, 1)
        y = torch.cat([b, a], 1)
        return self.last(y) if x.shape[-1] == self.window else self.last(y.roll(1, 3) * 0.5)


class Heads(nn.Module):
    """A limit whose name and value are like those of the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.max_heads_logged = 4, 4
        self.q, self.k, self.v = (nn.Linear(12, 16) for _ in range(3))
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if x.shape[1] > self.max_heads_logged * 2:
            v = v * 2
        return self.out((q @ k.transpose(-1, -2) * 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class Routed(nn.Module):
    """Layers know their number, and what a later layer reads is kept by number."""

    def __init__(self) -> None:
        super().__init__()
        convs = [nn.Conv2d(3 if n == 0 else 16, 16, 3) for n in range(4)]
        split = Halves(lambda _, y: y.chunk(2, 1), 16)
        split.inner = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1))
        self.layers, self.save = nn.ModuleList([*convs, split, nn.Conv2d(16, 16, 3)]), [4, 5]
        self.heads = nn.ModuleList(nn.Conv2d(16, 5, 1) for _ in range(2))
        for number, layer in enumerate(self.layers):
            layer.number = number

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        for layer in self.layers:
            x = layer(x)
            kept.append(x if layer.number in self.save else None)
        return [head(kept[number]) for head, number in zip(self.heads, self.save, strict=True)]


@pytest.mark.parametrize(
    ("model", "places"),
    [(Histogram, ["bins"]), (Window, ["window"]), (Heads, ["max_heads_logged"]), (Routed, ["save"])],
)
def test_integers_that_are_only_compared_stay(model: type[nn.Module], places: list[str]) -> None:
    net = lively(model()).eval()
    x = torch.randn(2, 4, 12) if model is Heads else torch.randn(2, 3, 20, 20)
    result = torchthin.prune(net, x, 0.5, include=["*"])
    assert [getattr(result.model, name) for name in places] == [getattr(net, name) for name in places]
    assert all("number" not in own for own in result.recipe.attributes.values())
    assert parameters(result.model) < 0.61 * parameters(net)
    assert result.proof is not None
    assert result.proof.holds
    kept = [note for note in result.report.notes if "filters are kept" in note]
    assert all("part of the model's output" in note for note in kept)


class NormGroups(nn.Module):
    """Norm groups of one channel each, by modules with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 4, 1),
        )
        self.norm, self.plain = nn.GroupNorm(8, 8), nn.GroupNorm(8, 8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.plain(self.middle(self.norm(self.first(x)).sigmoid())))
        return out


@pytest.mark.parametrize("exact", [True, False])
def test_a_norm_group_of_one_channel_goes_with_it(exact: bool) -> None:
    torch.manual_seed(0)
    net = NormGroups().double()
    result = torchthin.prune(net, torch.randn(2, 3, 8, 8).double(), exact=exact)
    assert isinstance(result.model, NormGroups)
    assert (result.model.norm.num_groups, result.model.norm.num_channels, result.model.plain.num_groups) == (
        4,
        4,
        4,
    )
    if exact:
        masked, other = masked_net(copy.deepcopy(net), result.masks), torch.randn(1, 3, 12, 10).double()
        assert result.proof is not None and result.proof.exact
        assert torch.allclose(masked(other), result.model(other), rtol=0, atol=1e-9)


class CausalConvolution(nn.Module):
    """A state-space block: parts by kept numbers, and a depthwise convolution whose weight is given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.both = 16, 24
        self.into, self.out = nn.Linear(6, 40), nn.Linear(16, 5)
        self.weight = nn.Parameter(torch.randn(24, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        gate, mixed = self.into(x).split([self.inner, self.both], dim=-1)
        mixed = mixed.transpose(1, 2)
        mixed = F.conv1d(input=mixed, weight=self.weight, padding=2, groups=mixed.shape[1])[..., : x.shape[1]]
        value, other = mixed.transpose(1, 2).split([self.inner, self.both - self.inner], dim=-1)
        out: Tensor = self.out(gate.tanh() * value * other.mean(-1, keepdim=True))
        return out


def test_numbers_are_followed_past_a_convolution_that_takes_names() -> None:
    torch.manual_seed(0)
    result = torchthin.prune(CausalConvolution(), torch.randn(2, 7, 6), 0.5, include=["*"])
    assert result.proof is not None and result.proof.holds
    assert isinstance(result.model, CausalConvolution)
    assert (result.model.inner, result.model.out.in_features) == (8, 8)

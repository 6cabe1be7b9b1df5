"""Nets in which a dead channel looks constant and is not, or is constant and counts all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets.laws import distance, masked_net
from torch import Tensor, nn

import torchthin
from torchthin import PruneResult
from torchthin.errors import TargetMissedError

EXACT = 1e-9
Make = Callable[[], nn.Module]


def real(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


def pruned(make: Make, example: Any, **options: Any) -> tuple[nn.Module, PruneResult]:
    """Prune a net by half; return its full size under the masks that the result names, and the result."""
    torch.manual_seed(0)
    model = make().double().eval()
    result = torchthin.prune(model, example, 0.5, **options)
    return masked_net(copy.deepcopy(model), result.masks), result


def furthest(masked: nn.Module, result: PruneResult, inputs: Sequence[Any]) -> float:
    found = [distance(masked, result.model, given) for given in inputs]
    return max(apart for apart in found if apart is not None)


class Gray(nn.Module):
    """What follows a one-channel input is pooled to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.h = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.h((self.c(x) + x).relu().mean((2, 3)))
        return out


def test_a_channel_that_follows_the_input_stays() -> None:
    _, result = pruned(Gray, real(1, 1, 8, 8))
    assert result.recipe is None and not result.report.target_reached
    assert any("what its removed channels hold depends on the input" in note for note in result.report.notes)


class TransposedUse(nn.Module):
    """A weight is used forwards and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.l = nn.Conv2d(3, 6, 1, bias=False), nn.Linear(6, 8, bias=False)
        self.h = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = self.stem(x).permute(0, 2, 3, 1)
        out: Tensor = self.h((torch.relu(self.l(t)) @ self.l.weight).mean((1, 2)))
        return out


def test_a_weight_that_is_used_transposed_makes_channels_on_both_axes() -> None:
    masked, result = pruned(TransposedUse, real(1, 3, 8, 8))
    assert result.proof is not None and result.proof.exact
    assert furthest(masked, result, [real(1, 3, 8, 8, seed=1), real(7, 3, 8, 8)]) <= EXACT


class Bordered(nn.Module):
    """A constant meets a border, and what comes of it is pooled."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.c = kind, nn.Conv2d(3, 8, 3)
        self.h = nn.Linear(16 if kind == "transposed" else 8, 4)
        self.d: nn.Module = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        if kind == "transposed":
            self.d = nn.ConvTranspose2d(8, 16, 3, padding=1, groups=8)
        self.register_buffer("k", torch.ones(8, 1, 3, 3) / 9)
        nn.init.constant_(self.c.bias, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x).relu()
        if self.kind in {"depthwise", "transposed"}:
            y = self.d(y)
        elif self.kind == "pooled":
            y = F.avg_pool2d(y, 3, 2, padding=1)
        elif self.kind == "blurred":
            y = F.conv2d(y, self.k, padding=1, groups=self.k.shape[0])
        elif self.kind == "unfolded":
            y = F.unfold(y, 3, padding=1).view(y.shape[0], y.shape[1], 9, -1).mean(2, keepdim=True)
        else:
            y = F.pad(y, (1, 1, 1, 1))
        out: Tensor = self.h(y.mean((2, 3)))
        return out


@pytest.mark.parametrize("kind", ["depthwise", "transposed", "pooled", "blurred", "unfolded", "padded"])
def test_exact_at_every_picture_size(kind: str) -> None:
    masked, result = pruned(lambda: Bordered(kind), real(2, 3, 10, 10))
    assert result.proof is not None and result.proof.exact
    assert result.model.get_parameter("c.weight").shape[0] == 4
    assert furthest(masked, result, [real(2, 3, size, size) for size in (8, 10, 16, 32)]) <= EXACT


class Product(nn.Module):
    """Both factors come from the input, and their dead channels emit constants."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.v = (nn.Linear(6, 16) for _ in range(3))
        self.w, self.o = nn.Parameter(torch.randn(4, 16)), nn.Linear(16, 5)
        for layer in (self.a, self.b):
            nn.init.constant_(layer.bias, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if self.kind == "gram":
            return torch.bmm(a, b.transpose(1, 2))
        if self.kind == "weight first":
            return torch.einsum("oc,ntc->nto", self.w, a)
        if self.kind == "sigmoid attention":
            out: Tensor = self.o(torch.sigmoid(a @ b.transpose(1, 2)) @ self.v(x))
            return out
        stacked = torch.stack([a.relu().mean(1), b.relu().mean(1)], 1)
        return torch.bmm(stacked, stacked.transpose(1, 2))


@pytest.mark.parametrize("kind", ["gram", "weight first", "sigmoid attention", "interaction"])
def test_constants_in_products_are_not_dropped(kind: str) -> None:
    masked, result = pruned(lambda: Product(kind), real(2, 7, 6), include=["a.weight", "b.weight"])
    assert result.proof is not None and result.proof.exact
    assert result.recipe is not None and not result.recipe.added
    assert furthest(masked, result, [real(2, 7, 6, seed=1), real(5, 3, 6)]) <= EXACT


class Language(nn.Module):
    """Embedding, a branch that is added back, a norm of some kind, and a head without bias."""

    def __init__(self, norm: Callable[[int], nn.Module] = lambda _: nn.Identity()) -> None:
        super().__init__()
        self.e, self.pos = nn.Embedding(50, 16), nn.Parameter(torch.randn(1, 9, 16))
        self.n, self.f, self.g = norm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.m, self.h = norm(16), nn.Linear(16, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.e(x) + self.pos[:, : x.shape[1]]
        out: Tensor = self.h(self.m(y + self.g(self.f(self.n(y)).relu())))
        return out


class OwnRms(nn.Module):
    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.rand(width) + 0.5), offset
        self.variance_epsilon = 1e-2

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.offset + self.weight) * x if self.offset else self.weight * x


RMS_NORMS: dict[str, Callable[[int], nn.Module]] = {"own": OwnRms, "offset": lambda n: OwnRms(n, 1.0)}
if hasattr(nn, "RMSNorm"):
    RMS_NORMS |= {"torch": lambda n: nn.RMSNorm(n, eps=1e-2), "torch, smallest epsilon": nn.RMSNorm}


@pytest.mark.parametrize("norm", ["none", *RMS_NORMS])
def test_all_that_makes_a_channel_is_masked_and_the_result_is_exact(norm: str) -> None:
    make = Language if norm == "none" else lambda: Language(RMS_NORMS[norm])
    masked, result = pruned(make, tokens(2, 7), include=["f.weight", "g.weight"])
    assert {"e.weight", "pos", "f.weight", "g.weight"} <= set(result.masks)
    assert result.proof is not None and result.proof.exact
    assert result.recipe is not None and not result.recipe.added
    assert furthest(masked, result, [tokens(2, 7, seed=1), tokens(3, 5)]) <= EXACT


@pytest.mark.parametrize("norm", list(RMS_NORMS))
def test_a_file_brings_the_epsilon_of_a_norm(norm: str, tmp_path: Any) -> None:
    _, result = pruned(lambda: Language(RMS_NORMS[norm]), tokens(2, 7), include=["g.weight"])
    result.save(tmp_path / "small.pth")
    loaded = torchthin.load(Language(RMS_NORMS[norm]).double(), tmp_path / "small.pth")
    assert distance(result.model, loaded, tokens(3, 5)) == 0.0


def test_layer_norm_is_approximate_and_named() -> None:
    masked, result = pruned(lambda: Language(nn.LayerNorm), tokens(2, 7), include=["f.weight", "g.weight"])
    assert {"e.weight", "pos", "n.weight", "n.bias", "m.weight", "m.bias"} <= set(result.masks)
    proof = result.proof
    assert proof is not None and proof.holds and not proof.exact and proof.verdict == "approximate"
    assert proof.inexact == tuple(f"{name}: statistics run over fewer channels (8 of 16)" for name in "nm")
    assert furthest(masked, result, [tokens(2, 7)]) == pytest.approx(proof.masked[0].relative, rel=1e-6)
    masked, result = pruned(lambda: Language(nn.LayerNorm), tokens(2, 7), include=["*"], exact=True)
    assert result.proof is not None and result.proof.exact
    assert result.model.get_parameter("f.weight").shape == (16, 16)
    assert furthest(masked, result, [tokens(2, 7, seed=1), tokens(3, 5)]) <= EXACT


@pytest.mark.parametrize("norm", [nn.Identity, nn.LayerNorm, OwnRms])
def test_the_example_decides_nothing(norm: Callable[[int], nn.Module]) -> None:
    first, second = (
        pruned(lambda: Language(norm), tokens(2, 7, seed=seed), include=["*"])[1].model.state_dict()
        for seed in (0, 1)
    )
    assert first["e.weight"].shape == (50, 8) and first["f.weight"].shape == (16, 8)
    assert all(torch.equal(first[name], second[name]) for name in first)


class Zeroed(nn.Module):
    """A branch that starts at zero, beside an embedding or a learned map."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.e, self.m = nn.Embedding(50, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.f, self.o, self.h = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        nn.init.zeros_(self.o.weight), nn.init.zeros_(self.o.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.e(x) if self.kind == "embedding" else self.m.expand(len(x), -1, -1)
        out: Tensor = self.h((y + self.o(self.f(self.e(x)).relu())).mean(1))
        return out


@pytest.mark.parametrize("kind", ["embedding", "map"])
@pytest.mark.parametrize("batch", [1, 2])
def test_nothing_alive_is_called_dead(kind: str, batch: int) -> None:
    torch.manual_seed(0)
    model = Zeroed(kind).double().eval()
    full = copy.deepcopy(model)
    thinned = torchthin.thin_(
        model, tokens(batch, 5)
    )  # what the zeros of o do not read goes: half of nothing else
    assert thinned.proof.exact
    assert model.get_parameter("h.weight").shape == (4, 8) and model.get_parameter("f.weight").shape[0] == 1
    assert distance(full, model, tokens(4, 5, seed=3)) <= EXACT  # type: ignore[operator]


def slim() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("how", ["scale", "columns", "threshold"])
def test_channels_that_a_scale_or_their_readers_kill(how: str) -> None:
    model = slim()
    with torch.no_grad():
        if how == "columns":
            model[3].weight[:, :8] = 0
        else:
            model[1].weight[:8], model[1].bias[:8] = 1e-5 if how == "threshold" else 0, 0.3
    full = copy.deepcopy(model)
    if how == "threshold":
        with pytest.raises(TargetMissedError):
            torchthin.thin_(copy.deepcopy(model), real(2, 3, 9, 9))
        full[1].weight.data[:8] = 0
    thinned = torchthin.thin_(model, real(2, 3, 9, 9), threshold=1e-4 if how == "threshold" else 0.0)
    assert thinned.proof.exact and model[0].out_channels == 8
    assert distance(full, model, real(3, 3, 12, 12)) <= EXACT  # type: ignore[operator]


class Dynamic(nn.Module):
    """Kernels that a softmax mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6, 8, 1, 1) * 0.1)
        self.a, self.score, self.h = nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        share = self.score(x.mean((0, 2, 3))).softmax(-1)
        out: Tensor = self.h(F.conv2d(x, torch.einsum("k,koihw->oihw", share, self.weight)))
        return out


def test_what_a_softmax_runs_over_is_no_channel() -> None:
    _, result = pruned(Dynamic, real(2, 3, 6, 6), include=["a.weight", "score.weight"])
    assert result.model.get_parameter("score.weight").shape[0] == 4
    assert any("a softmax runs over it" in note for note in result.report.notes)
    assert result.proof is None or result.proof.exact


@pytest.mark.parametrize("include", [["*"], ["e.weight"], ["e*"]])
@pytest.mark.parametrize("bag", [False, True])
def test_an_embedding_in_front_of_a_layer_is_cut_when_it_is_named(bag: bool, include: list[str]) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.EmbeddingBag(50, 16) if bag else nn.Embedding(50, 16)
            self.f, self.o = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.e(x) if bag else self.e(x).mean(1)
            out: Tensor = self.o(self.f(y).relu())
            return out

    masked, result = pruned(Words, tokens(4, 6), include=include)
    assert result.model.get_parameter("e.weight").shape == (50, 8)
    assert result.proof is not None and result.proof.exact
    assert furthest(masked, result, [tokens(3, 5, seed=2)]) <= EXACT
    assert "e.weight" in str(torchthin.inspect(Words(), tokens(4, 6)))


@pytest.mark.parametrize("name", ["n", "e", "pos", "m.weight"])
def test_what_is_excluded_stays_whatever_it_is(name: str) -> None:
    _, result = pruned(lambda: Language(nn.LayerNorm), tokens(2, 7), include=["*"], exclude=[name])
    full = Language(nn.LayerNorm)
    for parameter, tensor in result.model.named_parameters():
        if parameter == name or parameter.startswith(f"{name}."):
            assert tensor.shape == full.get_parameter(parameter).shape
    assert result.model.get_parameter("f.weight").shape == (16, 16)
    assert any(parameter.startswith(name) for parameter in result.report.request.excluded)


def test_a_layer_that_is_excluded_keeps_the_stream_that_it_adds_to() -> None:
    _, result = pruned(Language, tokens(2, 7), include=["*"], exclude=["g"])
    assert result.model.get_parameter("g.weight").shape == (16, 16)  # what it reads goes
    assert result.model.get_parameter("e.weight").shape == (50, 16)
    assert result.report.request.excluded == ("g.weight",)


@pytest.mark.parametrize("name", ["1", "1.bias"])
def test_an_excluded_norm_keeps_the_filters_in_front(name: str) -> None:
    result = torchthin.prune(slim(), real(2, 3, 9, 9), 0.5, exclude=[name])
    widths = [result.model[layer].weight.shape[0] for layer in (0, 1, 3)]
    assert widths == [16, 16, 4]
    assert "1.bias" in result.report.request.excluded

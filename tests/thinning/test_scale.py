"""Attention whose scale is computed from the width of its heads loses width: the queries are multiplied by the ratio."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin
from torchthin.config import Ratio
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.selection.prunable_weights import find_prunable_weights
from torchthin.selection.selectors import ImportanceSelector, RatioRule
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import find_plan


def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def scores_divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def by_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / torch.tensor(float(q.shape[-1])).sqrt()).softmax(-1) @ v


def query_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


def rotated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        angle = torch.arange(x.shape[-2]).view(-1, 1) * 0.3
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    return scores_divided(turn(q), turn(k), v)


def curved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No factor of the layer is a factor of what is divided."""
    return (q.tanh() @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


class Attention(nn.Module):
    """The number of heads is written into the code, so only their width can change."""

    def __init__(self, run: Callable[..., Tensor], fused: bool, bias: bool) -> None:
        super().__init__()
        self.run, self.fused = run, fused
        self.first = nn.Linear(6, 24)
        names = ("qkv",) if fused else ("q", "k", "v")
        for name in names:
            self.add_module(name, nn.Linear(24, 72 if fused else 24, bias=bias))
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (t.view(*t.shape[:2], 3, -1).transpose(1, 2) for t in parts)
        return self.out(self.run(q, k, v).transpose(1, 2).flatten(2))


def pruned(run: Callable[..., Tensor], fused: bool, bias: bool) -> torchthin.PruneResult:
    torch.manual_seed(0)
    model = Attention(run, fused, bias).eval()
    return torchthin.prune(model, torch.randn(2, 7, 6), include=["*"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("run", [by_torch, scores_divided, by_tensor, query_scaled, rotated])
def test_heads_get_narrower(run: Callable[..., Tensor], fused: bool, bias: bool) -> None:
    result = pruned(run, fused, bias)
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.get_parameter("qkv.weight" if fused else "q.weight").shape[0] == (36 if fused else 12)
    assert any("take a factor of" in note for note in result.report.notes)


def test_the_factor_is_what_the_proof_needs() -> None:
    torch.manual_seed(0)
    model = Attention(scores_divided, False, True).eval()
    traced = trace(model, as_inputs(torch.randn(2, 7, 6)))
    targets = find_prunable_weights(model, structured=True, include=("*",))
    select = ImportanceSelector(model, targets, RatioRule(Ratio(0.5)))
    assert find_plan(traced, select).recipe.shape_after("q.weight")[0] == 12
    nowhere = Constraints(unscaled=frozenset(op.index for op in traced.graph.ops))
    assert 0 not in find_plan(traced, select, constraints=nowhere).recipe.keep["q.weight"]


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_not_linear_stays(fused: bool) -> None:
    result = pruned(curved, fused, True)
    assert result.proof is not None
    assert result.proof.holds
    assert not any("take a factor of" in note for note in result.report.notes)
    if not fused:
        assert (result.model.q.weight.shape[0], result.model.v.weight.shape[0]) == (24, 12)


def test_masks_in_place() -> None:
    torch.manual_seed(0)
    model, x = Attention(by_torch, False, True).eval(), torch.randn(2, 7, 6)
    result = torchthin.prune(model, x, include=["*"], thin=False)
    with torch.no_grad():
        expected = result.model(x)
    thinned = torchthin.thin_(model, x, masks=result.masks)
    assert thinned.proof.holds
    assert model.q.weight.shape == (12, 12)
    torch.testing.assert_close(model(x), expected)


class Shared(nn.Module):
    """One projection makes queries and values: a factor for the one would be wrong for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.both = nn.Linear(6, 24), nn.Linear(24, 24)
        self.k, self.out = nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k = (layer(x).view(*x.shape[:2], 3, -1).transpose(1, 2) for layer in (self.both, self.k))
        return self.out(scores_divided(q, k, q).transpose(1, 2).flatten(2))


def test_a_wrong_factor_is_taken_back() -> None:
    torch.manual_seed(0)
    result = torchthin.prune(Shared().eval(), torch.randn(2, 7, 6), include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.both.weight.shape == (24, 12)
    assert not any("take a factor of" in note for note in result.report.notes)


class Attending(nn.Module):
    """torch's own multi-head attention between two linear layers."""

    def __init__(self, bias: bool, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.first = nn.Linear(6, 24)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True, bias=bias)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.out(x + self.attention(x, x, x, need_weights=self.need_weights)[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_torch_attention_loses_width(bias: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    model = Attending(bias, need_weights)
    result = torchthin.prune(model, torch.randn(2, 5, 6), 0.5, include=["*"])
    assert result.proof is not None and result.proof.holds and result.proof.relative <= 1e-9
    attention = result.model.get_submodule("attention")
    assert attention.in_proj_weight.shape == (36, 12)
    assert (attention.embed_dim, attention.head_dim, attention.num_heads) == (12, 3, 4)


def test_torch_encoder_loses_width() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 24), nn.TransformerEncoder(layer, 2), nn.Linear(24, 5))
    result = torchthin.prune(model, torch.randn(2, 5, 6), 0.5, include=["*"])
    assert result.proof is not None and result.proof.holds and result.proof.relative <= 1e-9
    assert result.model.get_parameter("1.layers.1.self_attn.in_proj_weight").shape == (36, 12)
    assert result.model.get_parameter("1.layers.1.linear1.weight").shape == (24, 12)


class Joined(nn.Module):
    """The function behind `nn.MultiheadAttention`, on weights of its own: the bias of the queries is joined and divided again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 5)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.embed_dim, self.num_heads = 32, 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).transpose(0, 1)
        y, _ = nn.functional.multi_head_attention_forward(
            x, x, x, self.embed_dim, self.num_heads, torch.empty(0),
            torch.cat((self.q.bias, self.k.bias, self.v.bias)), None, None, False, 0.0, self.out.weight,
            self.out.bias, training=False, use_separate_proj_weight=True, q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )  # fmt: skip
        return self.last(x + y).transpose(0, 1)


def test_a_bias_that_is_joined_with_others_takes_the_factor() -> None:
    torch.manual_seed(0)
    result = torchthin.prune(Joined().eval(), torch.randn(2, 7, 6), include=["*"])
    assert result.proof is not None and result.proof.holds and result.proof.relative <= 1e-9
    assert result.model.q.weight.shape == result.model.out.weight.shape == (16, 16)


class ByConvolutions(nn.Module):
    """Projections are convolutions, so their biases lie along the second axis; the number of heads is in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 24, 1)
        self.q, self.k, self.v = (nn.Conv1d(24, 24, 1) for _ in range(3))
        self.out = nn.Conv1d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (layer(x).unflatten(1, (4, -1)).transpose(2, 3) for layer in (self.q, self.k, self.v))
        return self.out(scores_divided(q, k, v).transpose(2, 3).flatten(1, 2))


def test_projections_by_convolutions_lose_width_too() -> None:
    torch.manual_seed(0)
    net, x = ByConvolutions().eval(), torch.randn(2, 6, 7)
    result = torchthin.prune(net, x, include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.q.out_channels == 12
    assert result.report.notes

"""Integer attributes that the model's code uses as sizes follow what is cut, under any name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.config import Ratio
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import read_sizes, trace
from torchthin.graph.tracked import Attribute
from torchthin.selection.prunable_weights import find_prunable_weights
from torchthin.selection.selectors import ImportanceSelector, RatioRule
from torchthin.thinning.search.trial_loop import ThinningPlan, find_plan


class Attention(nn.Module):
    """Every size of its views and splits is an attribute, and several are equal; `width` is read by nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.split_size, self.joined, self.per_head = width, width, width, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scaling = self.per_head**-0.5

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).split(self.split_size, dim=2)
        q, k, v = (t.view(*t.shape[:2], -1, self.per_head).transpose(1, 2) for t in parts)
        y = ((q * self.scaling) @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], self.joined))


class Widening(nn.Module):
    """Compares two of its sizes, and hands none to torch."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.width, self.width_out = width, width_out
        self.norm, self.fit = nn.LayerNorm(width), nn.Linear(width, width_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.fit(y) if self.width != self.width_out else y


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention = nn.Linear(6, 24), Attention(24, 3)
        self.widening, self.last = Widening(24, 48), nn.Linear(48, 2)
        self.rows = 5

    def forward(self, x: Tensor) -> Tensor:
        y = self.widening(self.attention(self.first(x)))
        return self.last(y.view(-1, self.rows, y.shape[-1]))


def planned(model: nn.Module, x: Tensor) -> ThinningPlan:
    targets = find_prunable_weights(model, structured=True, include=("*",))
    return find_plan(trace(model, as_inputs(x)), ImportanceSelector(model, targets, RatioRule(Ratio(0.5))))


def test_attributes_follow_at_once() -> None:
    torch.manual_seed(0)
    model, x = Doubled().eval(), torch.randn(2, 5, 6)
    plan = planned(model, x)
    assert plan.rounds == 1
    assert plan.recipe.attributes["attention"] == {"split_size": 12, "per_head": 4, "joined": 12}
    assert "widening" not in plan.recipe.attributes  # whatever the widths are, they differ
    assert "rows" not in plan.recipe.attributes.get("", {})
    result = torchthin.prune(model, x, include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.attention.qkv.weight.shape == (36, 12)
    assert result.model(x).shape == (2, 5, 2)


@pytest.mark.parametrize("watch", [True, False])
def test_sizes_are_read_from_a_copy(watch: bool) -> None:
    model, inputs = Doubled().eval(), as_inputs(torch.randn(2, 5, 6))
    traced = trace(model, inputs, watch=watch)
    assert (traced.graph.size_uses is not None) == watch  # in the run of the record, or in one of its own
    sizes = read_sizes(traced)
    assert sizes is not None
    found = {use.formula: traced.graph.values[use.value].shape[use.axis] for use in sizes.uses}
    assert found == {
        Attribute("attention", "split_size"): 24, Attribute("attention", "per_head"): 8,
        Attribute("attention", "joined"): 24, Attribute("", "rows"): 5,
        Attribute("widening.norm", "normalized_shape.0"): 24,
    }  # fmt: skip
    numbers = [v for m in model.modules() for v in vars(m).values() if isinstance(v, int)]
    assert {type(v) for v in numbers} == {int, bool}


class Copying(nn.Module):
    """Whether ``contiguous`` copies depends on the run; here it depends on an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.copies, self.first, self.last = 4, False, nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y.clone() if self.copies else y
        return self.last((y[:, : self.half] + y[:, y.shape[1] - self.half :]).view(-1, self.half))


def test_uses_are_found_in_a_record_that_has_other_copies() -> None:
    model = Copying().eval()
    traced = trace(model, as_inputs(torch.randn(2, 3)))
    assert traced.graph.size_uses is not None
    expected = set(traced.graph.size_uses.uses)
    assert len(expected) == 3
    unwatched = replace(traced, graph=replace(traced.graph, size_uses=None))
    model.copies = True
    again = read_sizes(unwatched)
    assert again is not None
    assert set(again.uses) == expected


def test_a_run_of_other_ops_says_nothing() -> None:
    model, inputs = Doubled().eval(), as_inputs(torch.randn(2, 5, 6))
    traced = trace(model, inputs, watch=False)
    model.widening = nn.Linear(24, 48)
    assert read_sizes(traced) is None


class Particular(Doubled):
    """Its code takes plain integers only, or does something else with others."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.rows, self.raises = 5, raises

    def forward(self, x: Tensor) -> Tensor:
        if type(self.rows) is not int:
            if self.raises:
                raise TypeError("rows must be int")
            x = x + x
        made: Tensor = super().forward(x)
        return made


@pytest.mark.parametrize("raises", [True, False])
def test_code_that_knows_plain_integers_from_others_is_thinned_and_proved(raises: bool) -> None:
    torch.manual_seed(0)
    model, x = Particular(raises).eval(), torch.randn(2, 5, 6)
    result = torchthin.prune(model, x, include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.attention.qkv.weight.shape == (36, 12)
    assert type(model.rows) is int
    assert type(result.model.rows) is int

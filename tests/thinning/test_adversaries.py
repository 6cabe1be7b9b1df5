"""Nets made to be hard: exact at 50 %, cut where channels can obviously be removed, not cut where none can, and thinned again."""

from __future__ import annotations

import copy

import pytest
import torch
from nets.adversaries import ADVERSARIES
from nets.blocks import Net
from nets.small import lively
from torch import Tensor, nn

from torchthin import Ratio, prune
from torchthin.selection.masks import apply_masks_

EXACT = 1e-9


def picture(seed: int) -> Tensor:
    return torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off_by(model: nn.Module, other: nn.Module) -> float:
    """Largest relative difference on inputs that no search saw."""
    with torch.no_grad():
        a, b = model(picture(7)), other(picture(7))
    assert a.shape == b.shape == (2, 5)
    return float((a - b).abs().max() / a.abs().max())


def pruned(model: nn.Module, inexact: str) -> nn.Module:
    """Prune and thin `model`, hold it against the masked model, and return what is left."""
    result = prune(model, picture(0), 0.5, include=["*"])
    if result.recipe:
        assert result.proof is not None
        assert result.proof.relative <= EXACT
    else:
        assert any("filters are kept" in note for note in result.report.notes)
    masked = copy.deepcopy(model)
    apply_masks_(masked, result.masks)
    if inexact and result.recipe:
        assert any(inexact in line for line in result.report.thinned.inexact)
    else:
        assert result.report.thinned.inexact == ()
        assert off_by(masked, result.model) <= EXACT
    return result.model


def width_of(model: nn.Module, name: str) -> int:
    state = model.state_dict()
    return len(state[name] if name in state else state[f"{name}.weight"])


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ADVERSARIES)
def test_exact_and_as_narrow_as_it_can_be(name: str, request: pytest.FixtureRequest) -> None:
    case = ADVERSARIES[name]
    model = lively(case.make().double()).eval()
    small = pruned(model, case.inexact)
    smaller = pruned(small, case.inexact)
    if case.missed:  # exact all the same; a strict mark, so that the day it is cut the note must go
        request.applymarker(pytest.mark.xfail(reason=case.missed, strict=True))
    assert {name: width_of(small, name) for name in case.widths} == case.widths
    assert (parameters(smaller) < parameters(small)) == case.again


@pytest.mark.parametrize("scope", ["group", "global"])
def test_the_balance_of_two_groups_leaves_every_layer_a_channel(scope: str) -> None:
    """A transposed convolution of two groups: the second sees two layers of four channels, the lowest are all of one."""
    torch.manual_seed(0)
    model = lively(Net([("dense", 4, 2), ("transposed", 12, 2)], 0).double()).eval()
    small = prune(model, picture(0), Ratio(0.5, scope=scope), include=["*"]).model
    assert width_of(small, "blocks.0.a") > 0
    assert width_of(small, "blocks.0.b") > 0

"""`plan`: it changes nothing, says what would be done, and `prune` is `plan` and `apply`, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from nets.blocks import BLOCKS, Net
from nets.small import lively
from torch import nn
from training import IMAGES
from training import Net as Small

from torchthin import NM, Budget, Distiller, PruneResult, Ratio, Unstructured, plan, prune
from torchthin.config import PruneConfig, Target
from torchthin.max7800x import Chip
from torchthin.pruning.one_shot import plan_pruning

DATA = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))
RUNS: dict[str, tuple[Target | float, dict[str, Any]]] = {
    "ratio": (0.5, {}),
    "global": (Ratio(0.5, scope="global"), {"exclude": ["wide"]}),
    "taylor": (0.5, {"criterion": "taylor", "data": DATA}),
    "budget": (Budget(macs="0.5x"), {}),
    "chip": (Chip("MAX78000", cycles="0.9x"), {}),
    "unstructured": (Unstructured(0.5), {}),
    "n:m": (NM(1, 2), {}),
    "distiller": (Distiller("agp-structured", 0.5), {}),
}


def same(a: PruneResult, b: PruneResult) -> bool:
    first, second = a.model.state_dict(), b.model.state_dict()
    return (
        first.keys() == second.keys()
        and all(torch.equal(value, second[name]) for name, value in first.items())
        and a.masks.keys() == b.masks.keys()
        and all(torch.equal(mask, b.masks[name]) for name, mask in a.masks.items())
        and (a.recipe, a.proof, a.report, a.config) == (b.recipe, b.proof, b.report, b.config)
    )


@pytest.mark.parametrize("run", RUNS)
def test_a_plan_changes_nothing_and_gives_what_prune_gives_as_often_as_it_is_applied(run: str) -> None:
    target, more = RUNS[run]
    net = lively(Small()).train()
    net(IMAGES).sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    random = torch.get_rng_state()

    found = plan(net, IMAGES[:2], target, **more)
    text = str(found)
    once = found.apply()
    again = found.apply()
    pruned = prune(net, IMAGES[:2], target, **more)

    assert once.model is not again.model
    assert same(once, again)
    assert same(once, pruned)
    assert str(found) == text
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(net.get_parameter(name).grad, gradient) for name, gradient in gradients.items())  # type: ignore[arg-type]


def test_a_plan_says_what_would_be_done() -> None:
    lines = plan(Small(), IMAGES[:2], 0.5, exclude=["wide"]).explain().splitlines()
    assert lines[:6] == [
        "| weight        |           pruned |     shape |    after |",
        "|---------------|------------------|-----------|----------|",
        "| stem.weight   | 5 of 10 channels |  10x3x3x3 |  5x3x3x3 |",
        "| branch.weight | 5 of 10 channels | 10x10x3x3 |  5x5x3x3 |",
        "| wide.weight   |                  | 12x10x1x1 | 12x5x1x1 |",
        "",
    ]
    assert lines[6].startswith("l1-structured: asked 50.00 % of the channels")
    assert lines[7] == "Thinning: parameters 1,384 -> 499 (36.05 %), bytes 5,536 -> 1,996 (36.05 %)."
    assert lines[8].startswith("Proof: exact: nothing changes, outputs differ by ")
    assert lines[9:] == ["Excluded as asked: wide.weight."]


def test_what_is_not_exact_is_named() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    text = plan(net, torch.randn(4, 6), 0.5).explain()
    assert "Proof: approximate: the removal is right" in text
    assert "because of 1: statistics run over fewer channels (4 of 8). Fine-tune or recover." in text


def test_a_plan_that_removes_nothing_says_so() -> None:
    assert "Nothing would be removed." in plan(Small(), None, Unstructured(0.5)).explain()
    frozen = plan(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGES[:2], 0.5).explain()
    assert "Nothing would be removed: " in frozen
    assert "0.weight: 8 filters are kept, part of the model's output." in frozen


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_the_sizes_of_the_text_are_those_of_the_thinned_model(block: str) -> None:
    net = lively(Net([(block, 8, 1)], 0))
    config = PruneConfig(0.4, include=["*"])  # type: ignore[arg-type]
    found = plan_pruning(net, torch.randn(2, 3, 10, 10), config)
    report = found.apply().report
    if found.recipe is not None:
        assert f"-> {report.thinned.after.parameters:,} (" in found.explain()
        assert f"-> {report.thinned.after.parameter_bytes:,} (" in found.explain()


def test_equal_notes_are_one_line() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    made = plan(net, IMAGES[:2], 0.5)
    report = replace(made.report, notes=("a: is kept.", "b: is kept.", "alone"))
    lines = replace(made, report=report).explain().splitlines()
    assert lines[-2:] == ["Note: a, b: is kept.", "Note: alone"]


def test_the_text_says_what_ranked_where_the_method_is_named_after_something_else() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    asked = "l1-structured: asked", "l1-structured, ranked by group-l2: asked"
    texts = [plan(net, IMAGES[:2], 0.5, criterion=name).explain() for name in (None, "group-l2")]
    assert [[start in text for start in asked] for text in texts] == [[True, False], [False, True]]

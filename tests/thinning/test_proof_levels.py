"""How much is compared decides what is known of the thinned model, not which model it is."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest
import torch
from nets.second_generator import Case, spec
from nets.small import Plain, image, lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin
from torchthin.errors import ConfigError, ProofError
from torchthin.graph import deferred
from torchthin.graph.reused_memory import ReusedMemory
from torchthin.pruning.plan import PruningPlan
from torchthin.thinning.proof import prove

LEVELS = ("off", "quick", "full")
NOT_PROVED = 'not proved (proof="off")'


def plans(model: nn.Module, inputs: Any, share: float = 0.5) -> dict[str, PruningPlan]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the random nets themselves: odd sizes
        return {level: torchthin.plan(model, inputs, share, proof=level) for level in LEVELS}


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("first", range(0, 8, 4))
def test_the_thinned_model_is_the_same_at_every_level(first: int) -> None:
    compared = 0
    for seed in range(first, first + 4):
        case = Case(spec(seed))
        found = plans(case.model(), case.example())
        rounds = {level: plan.thinning.rounds for level, plan in found.items() if plan.thinning}
        results = {level: plan.apply() for level, plan in found.items()}
        quick = results["quick"]
        if quick.proof is None:  # nothing to remove
            continue
        assert results["off"].proof is None and results["off"].recipe is not None
        assert results["off"].report.to_dict()["verdict"] == NOT_PROVED
        if rounds["quick"] == 1:
            assert same(results["off"].model, quick.model), seed
            assert results["off"].report.thinned.inexact == quick.proof.inexact
        if rounds["full"] == rounds["quick"]:
            assert same(results["full"].model, quick.model), seed
            assert results["full"].proof.verdict == quick.proof.verdict, seed
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("exact", [False, True])
def test_constants_of_removed_channels_are_taken_over_without_a_comparison(exact: bool) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1 if exact else 3, padding=int(not exact))
    )
    model = lively(net.double())
    result = torchthin.prune(model, image(dtype=torch.float64), 0.5, proof="off")
    masked = torchthin.prune(model, image(dtype=torch.float64), 0.5, thin=False).model
    inside = (Ellipsis, slice(1, -1), slice(1, -1))  # where no border is
    fresh = image(5, torch.float64)
    torch.testing.assert_close(result.model(fresh)[inside], masked(fresh)[inside])
    assert not torch.equal(result.model[2].bias, model[2].bias)
    assert (result.report.thinned.inexact == ()) == exact


def runs(monkeypatch: pytest.MonkeyPatch, level: str, model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the dtypes in which models were set up to be compared, and how often the thinned model was compared."""
    seen: list[str] = []
    set_up, proof = prove.set_up, prove.Comparison.compared
    monkeypatch.setattr(prove, "set_up", lambda m, p: (seen.append(p.name), set_up(m, p))[1])
    monkeypatch.setattr(
        prove.Comparison, "compared", lambda *a, **k: (seen.append("compared"), proof(*a, **k))[1]
    )
    torchthin.prune(model, inputs, 0.5, proof=level)
    return seen


def test_a_large_model_is_compared_in_float64_where_the_proof_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1100, 1100), nn.ReLU(), nn.Linear(1100, 4))
    for level, expected in (
        ("off", ["float32"]),
        ("quick", ["float32", "compared", "compared"]),
        ("full", ["float64", "compared", "compared", "compared"]),  # here, in a larger batch, fresh
    ):
        with monkeypatch.context() as patch:
            assert runs(patch, level, model, torch.randn(2, 1100)) == expected


def test_a_full_proof_compares_at_this_size_at_another_and_in_another_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    shapes = {
        level: [item.shape for item in plan.proof.outputs]
        for level, plan in plans(model, image()).items()
        if plan.proof is not None
    }
    assert shapes == {
        "quick": [(2, 4, 6, 6), (2, 4, 14, 14)],
        "full": [(2, 4, 6, 6), (2, 4, 14, 14), (4, 4, 6, 6), (2, 4, 6, 6)],
    }


class OneBatch(nn.Module):
    """Takes batches of 2 only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] == 2
        return self.second(F.relu(self.first(x)))


def test_sizes_that_the_model_does_not_take_are_left_out() -> None:
    result = torchthin.prune(OneBatch(), image(), 0.5, proof="full")
    assert result.proof is not None and result.proof.exact
    assert {item.shape[0] for item in result.proof.outputs} == {2}


class ByBatch(nn.Module):
    """In large batches the channels are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(x) * (x.shape[1] if x.shape[0] > 2 else 1)


def test_what_only_another_batch_shows_is_found_by_the_full_proof() -> None:
    model = ByBatch()
    small = torchthin.prune(model, image(), 0.5, proof="full").model
    masked = torchthin.prune(model, image(), 0.5, proof="full", thin=False).model
    large = torch.cat([image(1), image(2)])
    torch.testing.assert_close(small(large), masked(large))


def test_texts_say_that_nothing_was_proved() -> None:
    model = lively(Plain())
    result = torchthin.prune(model, image(), 0.5, proof="off")
    plan = torchthin.plan(model, image(), 0.5, proof="off")
    dead = torchthin.prune(model, image(), 0.5, thin=False).model
    texts = (str(result), plan.explain(), str(torchthin.thin_(dead, image(), proof="off")))
    for text in texts:
        assert NOT_PROVED in text
        assert "exact" not in text.replace("inexact", "")
    assert plan.proof is None and result.proof is None
    facts = result.report.to_dict()
    assert (facts["proof"], facts["verdict"]) == (None, NOT_PROVED)
    for level, verdict in (("quick", "exact"), ("full", "exact")):
        assert torchthin.prune(model, image(), 0.5, proof=level).report.to_dict()["verdict"] == verdict


def test_nothing_removed_is_no_verdict() -> None:
    result = torchthin.prune(Plain(), image(), 0.01, proof="off")
    assert result.recipe is None and result.report.to_dict()["verdict"] is None
    assert NOT_PROVED not in str(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proof": "ful"}, r"must be one of off, quick, full. Got 'ful'. Did you mean 'full'"),
        ({"proof": False}, "must be one of off, quick, full. Got False."),
        ({"proof": "off", "exact": True}, r"must be quick or full with exact=True .* Got 'off'."),
    ],
)
def test_levels_are_checked(options: dict[str, Any], message: str) -> None:
    def calls() -> Any:
        yield lambda: torchthin.prune(Plain(), image(), 0.5, **options)
        yield lambda: torchthin.plan(Plain(), image(), 0.5, **options)
        yield lambda: torchthin.thin_(Plain(), image(), **options)
        yield lambda: torchthin.Pruner(Plain(), image(), 0.5, **options)
        if "exact" not in options:
            yield lambda: torchthin.inspect(Plain(), image(), **options)

    for call in calls():
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_thin_runs_the_changed_model_once_and_takes_it_back_where_it_fails() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    masked = torchthin.prune(model, image(), 0.5, thin=False).model
    elsewhere, weight = {"first": masked[0]}, torch.ones(8, 1, 1)
    masked[0].register_forward_hook(lambda m, given, out: out * weight if m is elsewhere["first"] else out)
    before = {name: tensor.clone() for name, tensor in masked.state_dict().items()}
    with pytest.raises(ProofError, match=r"does not run once it is thinned, as its copy did: .*size"):
        torchthin.thin_(masked, image(), proof="off")
    assert all(torch.equal(before[name], tensor) for name, tensor in masked.state_dict().items())
    assert masked[0].out_channels == 8


def test_thin_makes_the_same_model_at_every_level() -> None:
    done = {}
    for level in LEVELS:
        model = torchthin.prune(lively(Plain()), image(), 0.5, thin=False).model
        thinned = torchthin.thin_(model, image(), proof=level)
        assert (thinned.proof is None) == (level == "off")
        done[level] = (model, thinned)
    for model, thinned in done.values():
        assert same(model, done["quick"][0])
        assert thinned.inexact == done["quick"][1].inexact


def test_verify_widens_one_weight_of_a_large_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(6))).bfloat16()
    made, most = list[weakref.ref[Tensor]](), 0
    convert = ReusedMemory.converted

    def watched(self: ReusedMemory, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in made))
        found = convert(self, tensor, dtype)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(deferred, "ROOM", 0)
    monkeypatch.setattr(ReusedMemory, "converted", watched)
    proof = torchthin.verify(model, model, torch.randn(2, 512).bfloat16())
    assert proof.exact and len(made) >= 12 and most <= 1

"""A run that is saved, ended and gone on with is, bit for bit, the run that was never interrupted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import RUNS, assert_zero_where_masked, live, setting, train_step

from torchthin import InputError, Pruner, Schedule
from torchthin.selection import schedule

DATA = Path(__file__).parents[1] / "data"


def snapshot(net: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner) -> bytes:
    file = io.BytesIO()
    states = {"pruner": pruner.state_dict(), "net": net.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(states, file)
    return file.getvalue()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner, steps: range) -> None:
    for step in steps:
        pruner.step()
        for number in range(2):
            train_step(net, optimizer, 2 * step + number)


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("thin_after", [None, 2, 3])
@pytest.mark.parametrize("kind", RUNS)
def test_six_steps_are_three_and_three(kind: str, thin_after: int | None) -> None:
    if thin_after is not None and kind == "weights":
        pytest.skip("single weights leave no channel dead so soon")

    def run(net: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner, steps: range) -> None:
        for step in steps:
            train(net, optimizer, pruner, range(step, step + 1))
            if step + 1 == thin_after:
                pruner.thin_()

    straight = setting(kind)
    run(*straight, range(6))
    first = setting(kind)
    run(*first, range(3))
    saved = torch.load(io.BytesIO(snapshot(*first)), weights_only=True)

    net, optimizer, pruner = setting(kind, seed=5)  # other weights, so other scores in its trial
    pruner.load_state_dict(saved["pruner"])
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    assert pruner.steps_done == 3
    run(net, optimizer, pruner, range(3, 6))
    assert_same(net.state_dict(), straight[0].state_dict())
    assert_same(optimizer.state_dict(), straight[1].state_dict())
    assert_same(pruner.state_dict(), straight[2].state_dict())
    assert str(pruner.report()) == str(straight[2].report())
    assert live(pruner.masks) == live(straight[2].masks)


def test_a_model_that_is_thin_already_goes_on_too() -> None:
    net, optimizer, pruner = setting()
    train(net, optimizer, pruner, range(3))
    pruner.thin_()
    state = pruner.state_dict()
    other = Pruner(net, torch.randn(2, 3, 8, 8), schedule=Schedule(steps=6))
    other.load_state_dict(state)
    assert other.step() == pruner.step()
    assert_same(other.state_dict(), pruner.state_dict())


def test_a_thinning_that_nothing_was_compared_for_goes_on_too() -> None:
    def run() -> Pruner:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        return Pruner(net, torch.randn(2, 3, 8, 8), schedule=Schedule(steps=2), proof="off")

    pruner, other = run(), run()
    pruner.step()
    done = pruner.thin_()
    assert done.proof is None and done.inexact == ("2: a constant of removed channels meets the border",)
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert str(other.report()) == str(pruner.report())
    assert 'not proved (proof="off")' in str(other.report())
    with pytest.raises(InputError, match="another proof: 'off', here 'quick'"):
        Pruner(
            nn.Sequential(*run().model), torch.randn(2, 3, 8, 8), schedule=Schedule(steps=2)
        ).load_state_dict(pruner.state_dict())


def other_width() -> Pruner:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return Pruner(net, torch.randn(2, 3, 8, 8), schedule=Schedule(steps=6))


@pytest.mark.parametrize(
    ("change", "make", "message"),
    [
        (lambda s: s, other_width, "of another model"),
        (lambda s: s, lambda: setting(steps=5)[2], "another agp_steps: 6, here 5"),
        (lambda s: s, lambda: setting("channels at once")[2], "another method"),
        (lambda s: s, lambda: setting(start=2)[2], "another start"),
        (lambda s: {**s, "version": 99}, lambda: setting()[2], "version 99"),
        (lambda s: {"step": 1}, lambda: setting()[2], "Missing"),
        (lambda s: [1, 2], lambda: setting()[2], "none of Pruner.state_dict"),
        (lambda s: {**s, "masks": {}}, lambda: setting()[2], "damaged"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, make: Any, message: str) -> None:
    net, optimizer, pruner = setting()
    train(net, optimizer, pruner, range(2))
    pruner.thin_()
    other = make()
    other.step()
    before, weights = other.state_dict(), {k: v.clone() for k, v in other.model.state_dict().items()}
    with pytest.raises(InputError, match=message) as error:
        other.load_state_dict(change(pruner.state_dict()))
    assert "\n" not in str(error.value)
    assert_same(other.state_dict(), before)
    assert_same(dict(other.model.state_dict()), weights)


@pytest.mark.parametrize("kind", ["channels", "weights"])
def test_a_state_that_an_earlier_version_wrote_goes_on(kind: str) -> None:
    """Written by version 1 after step 3 of 6; the channels were thinned after step 2."""
    saved = torch.load(DATA / "old_pruner.pth", weights_only=True)[kind]
    net, optimizer, pruner = setting(kind, seed=5)
    pruner.load_state_dict(saved["pruner"])
    net.load_state_dict(saved["net"])
    assert pruner.steps_done == 3
    asked = schedule.agp(3, target=0.5, steps=6)
    assert 0 < pruner.sparsity <= asked
    assert_zero_where_masked(net, pruner.masks)
    assert (pruner.report().thinned is not None) == (kind == "channels")
    train(net, optimizer, pruner, range(3, 6))
    assert pruner.sparsity == pytest.approx(0.5, abs=0.01)

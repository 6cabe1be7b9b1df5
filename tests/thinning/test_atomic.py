"""Whatever fails, wherever: the model, its optimizer and the process are as before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nets.small import Biasless, Plain, image, kill_, lively
from snapshot import Snapshot
from torch import Tensor, nn

import torchthin
from torchthin.errors import TorchthinError
from torchthin.graph.inputs import as_inputs
from torchthin.pruning.in_place import plan_thinning
from torchthin.thinning.apply import Step, apply_, exchange_, exchange_steps
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import changed_tensors


class Counter:
    """Shared by all copies of a model: deep copies of it are itself."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail_at = -1
        self.error: Callable[[], BaseException] = lambda: RuntimeError("out of luck")

    def __deepcopy__(self, memo: dict[int, object]) -> Counter:
        return self

    def __repr__(self) -> str:
        return "Counter"

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.error()


class Fragile(nn.Module):
    """Fails at the n-th call of its forward pass, and draws from every random generator."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 1, bias=False)
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.fc = nn.Linear(6, 4)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.counter.count()
        self.seen = [*self.seen, 1]
        torch.rand(3), random.random(), np.random.rand(3)  # noqa: NPY002
        y = self.conv2(torch.sigmoid(self.bn(self.conv1(x)))).flatten(2).transpose(1, 2)
        return self.fc(self.mix(y, y, y)[0].mean(1))


@pytest.fixture(autouse=True)
def unusual_switches() -> Iterator[None]:
    """Switches that are not at their defaults, so that setting a default shows."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.mha.set_fastpath_enabled(fastpath)


def fragile() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in the middle of its training, part of it in evaluation mode, part of it not trained."""
    model = lively(Fragile().float())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(image()).square().sum().backward()
    optimizer.step()
    kill_(model, {"conv1.weight": [1, 2], "conv2.weight": [0]})
    model.bn.eval()
    model.conv2.weight.requires_grad_(False)
    model.fc.register_forward_hook(lambda module, inputs, output: None)
    model.counter.calls = 0
    return model, optimizer


CALLS: dict[str, Callable[[nn.Module, torch.optim.Optimizer], object]] = {
    "thin_": lambda model, optimizer: torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer),
    "prune": lambda model, optimizer: torchthin.prune(model, image(), thin=False),
    "prune thin": lambda model, optimizer: torchthin.prune(model, image()),
    "inspect": lambda model, optimizer: torchthin.inspect(model, image()),
    "verify": lambda model, optimizer: torchthin.verify(model, model, image()),
}


@pytest.mark.parametrize("call", [name for name in CALLS if name != "thin_"])
def test_what_only_looks_changes_nothing(call: str) -> None:
    model, optimizer = fragile()
    before = Snapshot(model, optimizer)
    CALLS[call](model, optimizer)
    assert before.changes() == []


def test_thinning_leaves_switches_modes_and_generators() -> None:
    model, optimizer = fragile()
    before = Snapshot(model, optimizer)
    torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer)
    changed = before.changes()
    assert "conv1.weight" in changed
    assert [name for name in changed if name.startswith("switch") or ":" in name] == ["conv2:names"] * (
        model.conv2.bias is not None and "conv2:names" in changed
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        *((call, RuntimeError) for call in CALLS),
        ("thin_", KeyboardInterrupt),
        ("prune thin", KeyboardInterrupt),
    ],
)
def test_a_forward_pass_that_fails_at_any_call(call: str, error: type[BaseException]) -> None:
    model, optimizer = fragile()
    CALLS["prune" if call == "thin_" else call](model, optimizer)
    most = model.counter.calls + 2
    raised = 0
    for number in [*range(1, 6), *range(6, most, 5)]:
        model, optimizer = fragile()
        model.counter.fail_at = number
        model.counter.error = lambda: error("out of luck")
        before = Snapshot(model, optimizer)
        try:
            CALLS[call](model, optimizer)
            as_it_was = call != "thin_"
        except (TorchthinError, error):
            raised += 1
            as_it_was = True
        assert not as_it_was or before.changes() == [], f"at call {number}"
    assert raised > 0 or call in {
        "prune",
        "prune thin",
        "inspect",
        "verify",
    }  # which find another way where a run fails


class Interrupted(Exception):
    """What the tests raise in the middle of the exchange."""


def broken(step: Step, moment: str, error: type[BaseException]) -> Step:
    """The same step, which is interrupted before or after what it does."""

    def do() -> None:
        if moment == "after":
            step.do()
        raise error

    return replace(step, do=do)


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_in_the_middle_of_the_exchange(moment: str, error: type[BaseException]) -> None:
    model, optimizer = fragile()
    planned = plan_thinning(model, as_inputs(image()), {}, Constraints(add_biases=True))
    plan, values = planned.plan, changed_tensors(planned.masked, planned.plan)
    count = len(exchange_steps(model, plan.recipe, optimizer, values))
    assert plan.recipe.attributes and plan.recipe.added and values
    for position in range(count):
        model, optimizer = fragile()
        before = Snapshot(model, optimizer)
        steps = exchange_steps(model, plan.recipe, optimizer, values)
        steps[position] = broken(steps[position], moment, error)
        with pytest.raises(error):
            exchange_(steps)
        assert before.changes() == [], f"at step {position}"
        apply_(model, plan.recipe, optimizer, values)
        assert model.conv1.out_channels == 6


def test_the_exchange_is_whole_with_an_optimizer_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = fragile()

    class Stubborn(dict[Any, Any]):
        def update(self, *arguments: Any, **more: Any) -> None:
            raise RuntimeError("no")

    optimizer.state[model.bn.weight] = Stubborn(optimizer.state[model.bn.weight])
    before = Snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="no"):
        torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer)
    changed = [name for name in before.changes() if not name.startswith("optimizer")]
    assert changed == []


@pytest.mark.parametrize("bad", ["shape", "nothing", "keyword"])
def test_inputs_that_do_not_fit(bad: str) -> None:
    inputs: Any = {"shape": torch.ones(1, 5, 8, 8), "nothing": None, "keyword": {"y": image()}}[bad]
    model, optimizer = fragile()
    before = Snapshot(model, optimizer)
    for call in (
        lambda: torchthin.thin_(model, inputs, add_biases=True, optimizer=optimizer),
        lambda: torchthin.prune(model, inputs),
        lambda: torchthin.inspect(model, inputs),
    ):
        with pytest.raises(TorchthinError):
            call()
        assert before.changes() == []


def test_a_plain_model_keeps_every_switch() -> None:
    for make in (Plain, Biasless):
        model = lively(make().float())
        before = Snapshot(model)
        torchthin.prune(model, image())
        assert before.changes() == []

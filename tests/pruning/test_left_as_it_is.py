"""A model that notes its calls, in a buffer and in a list, shows that the functions which measure it run copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets.small import image
from snapshot import Snapshot
from torch import Tensor, nn

import torchthin
from torchthin import PruneConfig, PruneResult


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.shapes: list[tuple[int, ...]] = []
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.append(tuple(x.shape))
        return self.b(self.a(x).relu())


def metric(model: nn.Module) -> float:
    return -float(model(image()).abs().mean())


HALF = PruneConfig(0.5)
CALLS: dict[str, Callable[[nn.Module, PruneResult], object]] = {
    "prune": lambda model, small: torchthin.prune(model, image(), 0.5, data=image(), criterion="taylor"),
    "inspect": lambda model, small: torchthin.inspect(model, image()),
    "sensitivity": lambda model, small: torchthin.sensitivity(model, image(), data=image()),
    "compare": lambda model, small: torchthin.compare(
        model, image(), [HALF], data=image().repeat(4, 1, 1, 1)
    ),
    "compare by a metric": lambda model, small: torchthin.compare(model, image(), [HALF], metric=metric),
    "recover": lambda model, small: torchthin.recover(model, small, image(), image().repeat(4, 1, 1, 1)),
    "verify": lambda model, small: torchthin.verify(model, small.model, image()),
    "bench": lambda model, small: torchthin.bench(
        model, small.model, image(), repeats=1, warmup=1, runtimes=("torch",)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_caller_s_models_are_left_as_they_are(name: str) -> None:
    model = Counts()
    small = torchthin.prune(model, image(), 0.5)
    before = Snapshot(model), Snapshot(small.model)
    CALLS[name](model, small)
    assert [snapshot.changes() for snapshot in before] == [[], []]
    assert model.shapes == small.model.shapes == []


class Normalizes(nn.Module):
    """Writes into what it is given, as preparing code does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).sub_(0.5)
        out: Tensor = self.b(self.a(x).relu())
        return out


def test_what_a_model_writes_into_its_inputs_reaches_no_other_run() -> None:
    torch.manual_seed(0)
    example, data = image(), [torch.randn(4, 3, 8, 8) for _ in range(3)]
    before = example.clone(), [batch.clone() for batch in data]
    model = Normalizes()
    small = torchthin.prune(model, example, 0.5, data=data, recovery="fast")
    assert small.proof is not None and small.proof.exact
    assert small.report.recovery is not None and small.report.recovery.after < small.report.recovery.before
    assert torchthin.verify(model, model, example).relative_to_masked == 0
    assert torch.equal(example, before[0]) and all(map(torch.equal, data, before[1]))

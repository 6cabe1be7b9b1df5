"""One case of `coverage.py`, in a process of its own: build, prune with one tool, check, and count."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from zoo import Case, cases
from zoo.case import Inputs, run, tensors, train_step

from torchthin import prune
from torchthin.dependency.components import find_groups
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import propagate
from torchthin.graph.cost import measure
from torchthin.graph.inputs import as_inputs
from torchthin.graph.sample import one_sample
from torchthin.graph.trace import trace

SHARE = 0.5
"""Share of the channels that go."""


class Stage:
    """Remembers what was being done, so that a failure can be named."""

    def __init__(self) -> None:
        self.name = "build"

    def __call__(self, name: str) -> None:
        self.name = name


def measure_case(name: str, tool: str, seed: int) -> dict[str, Any]:
    """Return one row: plain JSON data."""
    torch.set_num_threads(1)
    stage = Stage()
    row: dict[str, Any] = {"seed": seed, "torch": torch.__version__}
    try:
        case = next(
            found[name]
            for source in ("torchvision", "transformers")
            if name in (found := cases(source=source))
        )
        model = case.build(seed)
        inputs = case.inputs()
        stage("forward")
        with torch.no_grad():
            before, row["forward_s"] = _least(lambda full: run(full, inputs), lambda: model)
        small = {"torchthin": _torchthin, "torch-pruning": _torch_pruning}[tool](model, inputs, row, stage)
        _check(case, small, inputs, tensors(before), row, stage)
    except Exception as error:  # whatever a tool or a model raises is the result of this case
        lines = str(error).strip().splitlines() or [""]
        return {
            **row,
            "ok": False,
            "stage": stage.name,
            "message": f"{type(error).__name__}: {lines[0]}"[:300],
        }
    return {**row, "ok": True}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the CPU seconds it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


REPEATS = 3
SLOW = 5.0
"""CPU seconds beyond which once is enough."""


def _least(work: Callable[[nn.Module], Any], prepare: Callable[[], nn.Module]) -> tuple[Any, float]:
    """Return the last result and the least CPU seconds of some runs: the first one loads code, and others share the cores.

    `prepare` gives the model of each run, which is not timed.
    """
    least = float("inf")
    for _ in range(REPEATS):
        model = prepare()
        result, seconds = timed(lambda model=model: work(model))  # type: ignore[misc]
        least = min(least, seconds)
        if seconds > SLOW:
            break
    return result, least


def _torchthin(model: nn.Module, inputs: Inputs, row: dict[str, Any], stage: Stage) -> nn.Module:
    stage("prune")
    result, row["prune_s"] = _least(lambda full: prune(full, inputs, SHARE, include=["*"]), lambda: model)
    report = result.report
    row |= {
        "parameters": report.parameters,
        "parameters_left": report.thinned.after.parameters,
        "macs": report.thinned.before.macs,
        "macs_left": report.thinned.after.macs,
        "notes": len(report.notes),
        "inexact": len(report.thinned.inexact),
    }
    stage("proof")
    if result.proof is None:
        raise ValueError("nothing was removed: " + (report.notes[0] if report.notes else "no note"))
    row |= {
        "error": result.proof.relative,
        "error_masked": result.proof.relative_to_masked,
        "vacuous": result.proof.vacuous,
    }
    if not result.proof.holds:
        raise ValueError(str(result.proof))
    stage("proof off")
    _, row["off_s"] = _least(
        lambda full: prune(full, inputs, SHARE, include=["*"], proof="off"), lambda: model
    )
    return result.model


def _torch_pruning(model: nn.Module, inputs: Inputs, row: dict[str, Any], stage: Stage) -> nn.Module:
    """The recipe of its README without rounding to multiples of 8: half of the channels, output layers ignored."""
    import torch_pruning

    sample = one_sample(model, as_inputs(inputs))
    before = measure(model, sample)
    row |= {"parameters": before.parameters, "macs": before.macs}
    outputs = _output_layers(model, inputs)
    stage("prune")

    def work(small: nn.Module) -> nn.Module:
        pruner = torch_pruning.pruner.BasePruner(
            small,
            inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=SHARE,
            ignored_layers=[small.get_submodule(name) for name in outputs],
            output_transform=lambda made: [t for t in tensors(made) if t.requires_grad],
        )
        pruner.step()
        return small

    model, row["prune_s"] = _least(work, lambda: copy.deepcopy(model))
    stage("run")
    after = measure(model, sample)
    row |= {"parameters_left": after.parameters, "macs_left": after.macs}
    if after.parameters == before.parameters:
        raise ValueError("nothing was removed, and no error was raised")
    return model


def _output_layers(model: nn.Module, inputs: Inputs) -> list[str]:
    """Name the layers whose filters are channels of an output, as this package's graph shows them."""
    labels = propagate(trace(model, as_inputs(inputs)).graph)
    frozen = find_groups(labels).groups.frozen
    axes = producers(labels)
    names = {
        item.parameter.rpartition(".")[0]
        for item in frozen
        if axes.get(item.parameter) == item.axis and item.reason.startswith("part of the model's output")
    }
    return [name for name, _ in model.named_modules() if name in names]


def _check(
    case: Case, small: nn.Module, inputs: Inputs, before: list[Tensor], row: dict[str, Any], stage: Stage
) -> None:
    stage("run")
    with torch.no_grad():
        after, row["thinned_forward_s"] = timed(lambda: tensors(run(small.eval(), inputs)))
    if len(after) != len(before):
        raise ValueError(f"{len(before)} outputs before, {len(after)} after")
    # how many boxes a detector finds is no matter of shape
    if "error" not in row and [t.shape[1:] for t in after] != [t.shape[1:] for t in before]:
        raise ValueError(
            f"output shapes {[tuple(t.shape) for t in after]}, were {[tuple(t.shape) for t in before]}"
        )
    if row["parameters_left"] >= row["parameters"]:
        raise ValueError("no parameter went")
    stage("train")
    row["trained_parameters"] = len(train_step(small, case.training()))

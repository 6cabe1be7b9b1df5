"""Pruning on a GPU, or on the CPU for comparison: one Markdown table of what works there, how long it takes, and the memory.

    python benchmarks/devices.py                                       # CUDA where torch sees it, else the CPU; some minutes
    python benchmarks/devices.py --device cpu --parts training zoo     # some parts
    python benchmarks/devices.py --markdown benchmarks/devices.md

Rows: `recover` and a `Pruner` under autocast on a small convolutional network; `prune` of the smallest models of the zoo in
float32, of ResNet-50 in three dtypes, and of Llama-shaped models with random weights. What fails is a row with the stage that
failed. After `--limit` seconds the run ends: what is under way and what is left become such rows, too.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import memory
import plan_large
import precisions
import torch
from coverage_case import SHARE, Stage
from torch import Tensor, nn
from zoo import cases
from zoo.case import Inputs, run

import torchthin

COLUMNS = (
    "model", "dtype", "result", "seconds", "forward s", "forward passes", "parameters", "left", "verdict", "peak GiB",
)  # fmt: skip
ZOO = (
    "bert", "llama", "t5", "mamba", "vit", "swin", "convnext", "wav2vec2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
)  # fmt: skip
"""Of the smallest, one of each kind."""


PARTS = ("training", "zoo", "resnet50", "llama")


class OutOfTime(BaseException):
    """The run has had its seconds. Not an Exception, which a trial would take for a failure of the model."""


@dataclass(frozen=True)
class Thinned:
    """What is left of a model."""

    model: nn.Module
    proof: torchthin.Proof | None


def pruned(model: nn.Module, inputs: Inputs) -> Thinned:
    result = torchthin.prune(model, inputs, SHARE, include=["*"])
    return Thinned(result.model, result.proof)


def recovered(model: nn.Module, images: Tensor) -> Thinned:
    """Prune, refit, and distil one epoch, which is in mixed precision on CUDA."""
    result = torchthin.prune(model, images[:2], SHARE)
    result = torchthin.recover(model, result, images[:2], images, recovery=torchthin.Recovery(epochs=1))
    return Thinned(result.model, result.proof)


def trained(model: nn.Module, images: Tensor) -> Thinned:
    """Prune in four training steps under autocast, then thin."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    schedule = torchthin.Schedule(steps=4)
    pruner = torchthin.Pruner(model, images[:2], SHARE, schedule=schedule, optimizer=optimizer)
    labels = torch.arange(len(images), device=images.device) % 10
    while not pruner.finished:
        pruner.step()
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Thinned(model, pruner.thin_().proof)


@dataclass(frozen=True)
class Job:
    """A row to be."""

    name: str
    make: Callable[[torch.dtype], tuple[nn.Module, Inputs]]
    """Made where the job runs."""
    dtype: torch.dtype = torch.float32
    work: Callable[[nn.Module, Any], Thinned] = pruned


def convolutions(_: torch.dtype) -> tuple[nn.Module, Inputs]:
    layers: list[nn.Module] = []
    for given, made in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(given, made, 3, 2, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), torch.randn(
        64, 3, 32, 32
    )


def of_zoo(name: str, source: str | None, dtype: torch.dtype) -> tuple[nn.Module, Inputs]:
    case = cases(source=source)[name]
    with torch.device("cpu"):  # its generators are the CPU's
        return case.build(), case.inputs() if source else case.small()


def llama(sizes: dict[str, int], dtype: torch.dtype) -> tuple[nn.Module, Inputs]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(dtype)  # 7B parameters are never there in float32
    try:
        model = LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False))
    finally:
        torch.set_default_dtype(torch.float32)
    return model, {"input_ids": torch.arange(16)[None]}


TINY = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 8000}  # fmt: skip
ONE_BILLION = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
               "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True}  # fmt: skip
SEVEN_BILLION = {"hidden_size": plan_large.WIDTH, "intermediate_size": plan_large.HIDDEN, "num_hidden_layers": 32,
                 "num_attention_heads": plan_large.HEADS, "vocab_size": plan_large.VOCABULARY}  # fmt: skip
ROOM = 40 * 2**30
"""Memory of a device on which 7B parameters, a copy of half of them and what the proof keeps are sure to fit."""


def jobs(parts: list[str], device: torch.device) -> Iterator[Job]:
    """Return the rows of some parts, the shortest first."""
    if "training" in parts:
        yield Job("recover, small CNN", convolutions, work=recovered)
        yield Job("Pruner under autocast, small CNN", convolutions, work=trained)
    if "zoo" in parts:
        yield from (Job(name, partial(of_zoo, name, None)) for name in ZOO)
    if "resnet50" in parts:
        yield from (
            Job("resnet50", partial(of_zoo, "resnet50", "torchvision"), dtype) for dtype in precisions.DTYPES
        )
    if "llama" in parts and device.type == "cpu":
        yield Job("Llama of 4 layers of 512 (on a GPU: 1B, 7B)", partial(llama, TINY), torch.bfloat16)
    elif "llama" in parts:
        yield Job("Llama, 1B", partial(llama, ONE_BILLION), torch.bfloat16)
        if torch.cuda.get_device_properties(device).total_memory >= ROOM:
            yield Job("Llama, 7B", partial(llama, SEVEN_BILLION), torch.bfloat16)


def seconds_of(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return a result and the seconds until the device has it."""
    synchronise(device)
    start = time.perf_counter()
    made = work()
    synchronise(device)
    return made, time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(job: Job, device: torch.device, stage: Stage) -> list[str]:
    """Return the cells of a row from the seconds on."""
    torch.manual_seed(0)
    with torch.device(device):
        model, inputs = job.make(job.dtype)
    model, inputs = model.to(device, job.dtype).eval(), precisions.moved(inputs, job.dtype, device)
    stage("forward")
    with torch.no_grad():
        run(model, inputs)
        _, forward = seconds_of(lambda: run(model, inputs), device)
    parameters = sum(p.numel() for p in model.parameters())
    stage("prune")
    made, seconds = seconds_of(lambda: job.work(model, inputs), device)
    stage("proof")
    if made.proof is None or not made.proof.holds:
        raise ValueError(made.proof or "nothing was removed")
    stage("run")
    with torch.no_grad():
        run(made.model.eval(), inputs)
    synchronise(device)
    left = sum(p.numel() for p in made.model.parameters())
    return [
        f"{seconds:.2f}",
        f"{forward:.4f}",
        f"{seconds / forward:,.1f}",
        f"{parameters:,}",
        f"{left:,}",
        made.proof.verdict,
    ]


def row(job: Job, device: torch.device, seconds: float) -> list[str]:
    """Return a whole row; a failure, also that of time, names its stage."""
    stage = Stage()
    memory.forget_peak(device)
    try:
        with at_most(seconds):
            cells = ["ok", *measured(job, device, stage)]
    except (
        Exception,
        OutOfTime,
    ) as error:  # whatever a model raises on this device is the result of this row
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200].replace("|", "/")
        cells = [f"{stage.name}: {said}", *[""] * 6]
    peak = memory.peak(device) / 2**30
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return [job.name, str(job.dtype).removeprefix("torch."), *cells, f"{peak:.2f}"]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in what runs after so many seconds."""

    def stop(*_: object) -> None:
        raise OutOfTime("the seconds of the whole run are over")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def heading(device: torch.device) -> str:
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}"
    )
    absent = "" if torch.cuda.is_available() else " No GPU was at hand: nothing here says how it goes on one."
    kind = (
        "memory that torch took on the device"
        if device.type == "cuda"
        else "memory of the process, which holds the libraries"
    )
    return (
        f"`python benchmarks/devices.py`, torch {torch.__version__}, {name}, {datetime.date.today()}.{absent}\n\n"
        'Half of the channels of all weights (`include=["*"]`), with the proof. Seconds are wall time, synchronised, one run; '
        "the first row has what is loaded once. Forward passes: seconds / seconds of a forward pass of the full model. "
        f"Peak: {kind}, with building the model.\n\n"
    )


def main(arguments: list[str] | None = None) -> list[list[str]]:
    """Print the table, write it where asked to, and return its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds after which the run ends")
    parser.add_argument("--markdown", help="write the table to this file")
    options = parser.parse_args(arguments)
    device, start, rows = torch.device(options.device), time.perf_counter(), []
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the models
        for job in jobs(options.parts, device):
            rows.append(row(job, device, options.limit - (time.perf_counter() - start)))
            lines.append(f"| {' | '.join(rows[-1])} |")
            print(lines[-1], flush=True)
    if options.markdown:
        Path(options.markdown).write_text(heading(device) + "\n".join(lines) + "\n")
    return rows


if __name__ == "__main__":
    sys.exit(any(cells[2] != "ok" for cells in main()))

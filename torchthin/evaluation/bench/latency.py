"""`bench`: two models run in turns, so that other load of the machine slows both alike."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError, TorchthinError
from torchthin.evaluation.bench.memory import peak_bytes
from torchthin.evaluation.bench.results import BenchResult, Size, Timing
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import (
    Inputs,
    as_inputs,
    call_on_originals,
    check_model,
    does_not_run,
    on_device_of,
)

RUNTIMES = ("torch", "onnxruntime")
Call = Callable[[], object]


def bench(
    dense: nn.Module,
    thinned: nn.Module,
    example_inputs: Any,
    *,
    repeats: int = 30,
    warmup: int = 5,
    threads: int | None = None,
    runtimes: tuple[str, ...] | None = None,
) -> BenchResult:
    """Measure two models in evaluation mode on the same inputs; neither is changed.

    Args:
        dense: the model before thinning.
        thinned: the model after it.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        repeats: measured runs of each model in each runtime.
        warmup: runs of each before that, not measured.
        threads: of the CPU; None: as torch has now.
        runtimes: of `RUNTIMES`; None: torch, and onnxruntime where it is installed. ONNX runs on the CPU.

    Raises:
        InputError: a model does not run on the inputs, or an argument is out of range.
    """
    limits = (
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", 1 if threads is None else threads, 1),
    )
    for name, value, least in limits:
        if value < least:
            raise ConfigError(f"The {name} of bench must be at least {least}. Got {value}.")
    chosen = _runtimes(runtimes)
    for model in (dense, thinned):
        check_model(model, "bench")
    pair = [clone(model, duplicate).eval() for model in (dense, thinned)]
    inputs = on_device_of(pair[0], as_inputs(example_inputs))
    timings: list[Timing] = []
    onnx = _Onnx()
    with _threads(threads) as used:
        calls: list[Call] = [in_torch(model, inputs) for model in pair]
        if "torch" in chosen:
            timings.append(_timed(f"torch {torch.__version__}", calls, repeats, warmup))
        if "onnxruntime" in chosen:
            onnx = _in_onnx(pair, inputs, used, repeats, warmup)
            timings += onnx.timings
    sizes = [_size(model, inputs, size) for model, size in zip(pair, onnx.file_bytes, strict=True)]
    device = str(next(inputs.tensors()).device)
    return BenchResult(
        sizes[0], sizes[1], tuple(timings), used, repeats, warmup, device, processor(), onnx.notes
    )


def _runtimes(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    installed = importlib.util.find_spec("onnxruntime") is not None
    if asked is None:
        return RUNTIMES if installed else RUNTIMES[:1]
    for name in asked:
        if name not in RUNTIMES:
            raise ConfigError(f"The runtimes of bench must be of {', '.join(RUNTIMES)}. Got {name!r}.")
    if "onnxruntime" in asked and not installed:
        raise ConfigError(
            "The runtime onnxruntime is not installed. Install the extra: pip install 'torchthin[export]'."
        )
    return asked


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


class InTorch:
    """A run of a model without gradients, which ends when the device is done."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        """Take a model and inputs that no run changes."""
        self._model, self._inputs = model, inputs
        self._wait = waiting(next(inputs.tensors()).device)
        self.prepare()

    def prepare(self) -> None:
        """Copy the inputs, which a model may change in place: every run gets what the first one got, outside its time."""
        self._given = _copied(self._inputs)
        self._wait()

    def __call__(self) -> None:
        """Run. Not in inference mode: a model may take gradients within its forward pass."""
        with torch.no_grad():
            call_on_originals(self._model, self._given)
        self._wait()


def _copied(inputs: Inputs) -> Inputs:
    return inputs.map(lambda tensor: tensor.detach().clone())


def in_torch(model: nn.Module, inputs: Inputs) -> InTorch:
    """Return a run of a model, after a first one.

    Raises:
        InputError: the model does not run on the inputs.
    """
    run = InTorch(model, inputs)
    try:
        run()
    except Exception as error:  # whatever the user's code raises
        raise does_not_run(model, inputs, "the example_inputs", error) from error
    return run


def waiting(device: torch.device) -> Callable[[], object]:
    """Return what waits until a device has done all that it was given; the CPU always has."""
    return getattr(getattr(torch, device.type, None), "synchronize", None) or (lambda: None)


def _timed(runtime: str, calls: list[Call], repeats: int, warmup: int) -> Timing:
    """Run both in turns; return milliseconds."""
    dense, thinned = ([1000 * each for each in found] for found in run_in_turns(calls, repeats, warmup))
    return Timing(runtime, tuple(dense), tuple(thinned))


def run_in_turns(calls: Sequence[Call], repeats: int, warmup: int) -> list[list[float]]:
    """Run each call in turn, again and again; return the seconds of its runs after the warm-up."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + repeats):
        for run, found in zip(calls, times, strict=True):
            if isinstance(run, InTorch):
                run.prepare()
            begin = time.perf_counter()
            run()
            if number >= warmup:
                found.append(time.perf_counter() - begin)
    return times


@dataclass(frozen=True)
class _Onnx:
    """What ONNX gave: nothing where it was not run, a note where a model cannot be exported."""

    timings: tuple[Timing, ...] = ()
    file_bytes: tuple[int | None, int | None] = (None, None)
    notes: tuple[str, ...] = ()


def _in_onnx(pair: list[nn.Module], inputs: Inputs, threads: int, repeats: int, warmup: int) -> _Onnx:
    """Export both, run both."""
    import onnxruntime

    from torchthin.io.export import Exported, export
    from torchthin.io.export.formats import run_onnx

    on_cpu = inputs.map(lambda tensor: tensor.detach().cpu().clone())
    with tempfile.TemporaryDirectory() as folder:
        made: list[Exported] = []
        try:
            for name, model in zip(("dense", "thinned"), pair, strict=True):
                made.append(export(model, Path(folder) / f"{name}.onnx", on_cpu))
        except TorchthinError as error:
            return _Onnx(notes=(f"Not run in onnxruntime, the {name} model: {error}",))
        calls: list[Call] = [partial(run_onnx(file.path, threads), on_cpu) for file in made]
        timing = _timed(f"onnxruntime {onnxruntime.__version__}", calls, repeats, warmup)
        return _Onnx((timing,), (made[0].file_bytes, made[1].file_bytes))


def _size(model: nn.Module, inputs: Inputs, onnx_bytes: int | None) -> Size:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    parameters = list(model.parameters())
    return Size(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        buffer.getbuffer().nbytes,
        onnx_bytes,
        peak_bytes(model, _copied(inputs)),
    )


def processor() -> str:
    """Return the name of the CPU, or else of the machine."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

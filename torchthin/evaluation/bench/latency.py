"""`bench`: two models run in turns, so that what else the machine does falls on both alike."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError, InputError, TorchthinError, one_line
from torchthin.evaluation.bench.memory import peak_bytes
from torchthin.evaluation.bench.results import BenchResult, Size, Timing
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import Inputs, as_inputs, call, on_device_of
from torchthin.graph.model import check_model

RUNTIMES = ("torch", "onnxruntime")
Work = Callable[[], object]


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
    for name, value, least in (
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", 1 if threads is None else threads, 1),
    ):
        if value < least:
            raise ConfigError(f"The {name} of bench must be at least {least}. Got {value}.")
    chosen = _runtimes(runtimes)
    pair = []
    for model in (dense, thinned):
        check_model(model, "bench")
        pair.append(clone(model, duplicate).eval())
    inputs = on_device_of(pair[0], as_inputs(example_inputs))
    device = next(inputs.tensors()).device
    with _threads(threads) as used:
        works = [_in_torch(model, inputs) for model in pair]
        timings = [_timed(f"torch {torch.__version__}", works, repeats, warmup)] if "torch" in chosen else []
        onnx_bytes: list[int | None] = [None, None]
        notes: tuple[str, ...] = ()
        if "onnxruntime" in chosen:
            found, onnx_bytes, notes = _with_onnx(pair, inputs, used, repeats, warmup)
            timings += found
    sizes = [_size(model, inputs, size) for model, size in zip(pair, onnx_bytes, strict=True)]
    return BenchResult(
        sizes[0], sizes[1], tuple(timings), used, repeats, warmup, str(device), _processor(), notes
    )


def _runtimes(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    there = importlib.util.find_spec("onnxruntime") is not None
    if asked is None:
        return RUNTIMES if there else RUNTIMES[:1]
    for name in asked:
        if name not in RUNTIMES:
            raise ConfigError(f"The runtimes of bench must be of {', '.join(RUNTIMES)}. Got {name!r}.")
    if "onnxruntime" in asked and not there:
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


def _in_torch(model: nn.Module, inputs: Inputs) -> Work:
    on_gpu = next(inputs.tensors()).is_cuda

    def work() -> None:
        with torch.inference_mode():
            call(model, inputs)
        if on_gpu:
            torch.cuda.synchronize()

    try:
        work()
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"The model ({type(model).__name__}) does not run on the example_inputs: {one_line(error)}. "
            "Give inputs of the shapes and dtypes that its forward takes."
        ) from error
    return work


def _timed(runtime: str, works: list[Work], repeats: int, warmup: int) -> Timing:
    """Run both in turns; return milliseconds."""
    for _ in range(warmup):
        for work in works:
            work()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, found in zip(works, times, strict=True):
            begin = time.perf_counter()
            work()
            found.append(1000 * (time.perf_counter() - begin))
    return Timing(runtime, tuple(times[0]), tuple(times[1]))


def _with_onnx(
    pair: list[nn.Module], inputs: Inputs, threads: int, repeats: int, warmup: int
) -> tuple[list[Timing], list[int | None], tuple[str, ...]]:
    """Export both, run both; a model that cannot be exported is a note, not an error."""
    from torchthin.io.export import export
    from torchthin.io.export.formats import run_onnx

    works: list[Work] = []
    sizes: list[int | None] = []
    on_cpu = inputs.map(lambda tensor: tensor.cpu())
    with tempfile.TemporaryDirectory() as folder:
        for name, model in zip(("dense", "thinned"), pair, strict=True):
            try:
                made = export(model, Path(folder) / f"{name}.onnx", on_cpu)
            except TorchthinError as error:
                return [], [None, None], (f"Not run in onnxruntime, the {name} model: {error}",)
            sizes.append(made.file_bytes)
            run = run_onnx(made.path, threads)
            works.append(lambda run=run: run(on_cpu))  # type: ignore[misc]
        import onnxruntime

        return [_timed(f"onnxruntime {onnxruntime.__version__}", works, repeats, warmup)], sizes, ()


def _size(model: nn.Module, inputs: Inputs, onnx_bytes: int | None) -> Size:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    parameters = list(model.parameters())
    return Size(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        buffer.getbuffer().nbytes,
        onnx_bytes,
        peak_bytes(model, inputs),
    )


def _processor() -> str:
    """Return the name of the CPU, or of the machine where it does not tell."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""`export`: write a file, run it, compare it with the model, and keep it only if they agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError, InputError, ProofError, one_line
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import Inputs, as_inputs, call, check_model, does_not_run, on_device_of, refreshed
from torchthin.graph.outputs import output_tensors
from torchthin.graph.precision import SINGLE
from torchthin.io.atomic import check_destination, write_whole
from torchthin.io.export.fold_batchnorm import fold_batchnorm as without_batchnorm
from torchthin.io.export.formats import FORMATS, check_fits_onnx, check_onnx, program_of
from torchthin.thinning.proof.verdict import Proof, compare, joined

TOLERANCE = 1e-5
"""Largest difference between file and model, in units of the output's largest value."""
FRESH = 2
"""Number of runs on fresh random inputs, beside the example."""
_SEED = 52_001
"""Of the first of them; far from the small seeds that examples are made with."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and agrees with its model."""

    path: Path
    format: str
    """``torch.export`` or ``ONNX``."""
    file_bytes: int
    opset: int | None
    """Of an ONNX file."""
    dynamic_batch: bool
    batches: tuple[int, ...]
    """Sizes of the first axis that the file was run on."""
    folded: tuple[str, ...]
    """Paths of the BatchNorms that were folded."""
    proof: Proof
    """Every output of every run, against the model as it was given."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        lists = {"batches": list(self.batches), "folded": list(self.folded)}
        return {**vars(self), "path": str(self.path), **lists, "proof": self.proof.to_dict()}

    def __str__(self) -> str:
        opset = "" if self.opset is None else f", opset {self.opset}"
        folded = f", {len(self.folded)} BatchNorms folded" if self.folded else ""
        runs = f"batches of {', '.join(map(str, self.batches))}" if self.dynamic_batch else "fixed batch"
        doubt = " An output was all zero, which shows little." if self.proof.vacuous else ""
        return (
            f"{self.path}: {self.format}{opset}, {self.file_bytes:,} bytes, {runs}{folded}. Off by "
            f"{self.proof.relative:.1e} of the output's largest value.{doubt}"
        )


def export(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    dynamic_batch: bool = False,
    opset: int | None = None,
    fold_batchnorm: bool = False,
) -> Exported:
    """Write `model` in evaluation mode to `path`: ``.pt2`` (torch.export) or ``.onnx`` (needs the extra ``export``).

    The file is run on the example and on fresh random inputs (a ``.pt2`` with torch, ONNX in onnxruntime, on the CPU) and every
    output is compared with the model's. It appears only if they agree to `TOLERANCE`. The model is not changed.

    Args:
        model: a (thinned) model.
        path: where to write; its ending says what.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        dynamic_batch: whether the first axis of every input may have any size; runs of one, two and three samples show it.
        opset: of the ONNX file; None for torch's choice.
        fold_batchnorm: put BatchNorms into the layers before them (`torchthin.io.export.fold_batchnorm`).

    Raises:
        InputError: the model cannot be exported, or the file not be written; nothing was written.
        ProofError: the file does not run, or computes something else; nothing was written.
    """
    check_model(model, "export")
    if not isinstance(path, (str, Path)):
        raise InputError(
            f"The path of export must be a str or a Path. Got a {type(path).__name__}. "
            "The order is export(model, path, example_inputs)."
        )
    path = Path(path)
    check_file(path, opset)
    if path.suffix == ".onnx":
        check_fits_onnx(model)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise InputError("The model of export must have values. It is on the meta device; load its weights.")
    source = clone(model, lambda name, tensor: duplicate(name, tensor).cpu()).eval()
    inputs = on_device_of(source, as_inputs(example_inputs))
    trials = list(_trials(inputs, dynamic_batch))
    expected = [_outputs(source, trial) for trial in trials]
    _refuse_incomparable(expected)
    exported, folded = without_batchnorm(source, inputs) if fold_batchnorm else (source, ())
    example = _samples(inputs, 2) if dynamic_batch else inputs
    program = program_of(exported, example, dynamic_batch=dynamic_batch)
    used, proof = _write_checked(path, program, opset, trials, expected)
    batches = tuple(dict.fromkeys(_batch(trial) for trial in trials)) if dynamic_batch else ()
    name, size = FORMATS[path.suffix].name, path.stat().st_size
    return Exported(path, name, size, used, dynamic_batch, batches, folded, proof)


def check_file(path: Path, opset: int | None) -> None:
    """Raise InputError for a file that cannot be written: its ending, missing packages, opset or place. No file is made."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"The file of export must end in .pt2 or .onnx. Got {str(path)!r}.")
    if path.suffix == ".onnx":
        check_onnx(opset)
    elif opset is not None:
        raise ConfigError(f"The opset of export is one of ONNX. The file {path} is none; leave it out.")
    check_destination(path)


def _trials(inputs: Inputs, dynamic_batch: bool) -> Iterator[Inputs]:
    """Yield the example and fresh inputs; with a dynamic batch of one, two and three samples as well."""
    yield inputs
    for seed in range(_SEED, _SEED + FRESH):
        yield refreshed(inputs, seed)
    if dynamic_batch:
        for samples in (1, 2, 3):
            yield refreshed(_samples(inputs, samples), samples)


def _batch(inputs: Inputs) -> int:
    """Return the size that the first axes share.

    Raises:
        ConfigError: they differ, or an input has no axis.
    """
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in inputs.tensors()}
    if len(sizes) > 1 or 0 in sizes:
        raise ConfigError(
            f"A dynamic batch must be the first axis of every input. Got the sizes {sorted(sizes)}; export without it."
        )
    return next(iter(sizes))


def _samples(inputs: Inputs, count: int) -> Inputs:
    """Return inputs of `count` samples: those given, repeated or left out."""
    times = -(-count // _batch(inputs))
    return inputs.map(lambda t: t.repeat(times, *(1 for _ in t.shape[1:]))[:count].contiguous())


def _outputs(model: nn.Module, inputs: Inputs) -> Any:
    try:
        with torch.no_grad():
            return call(model, inputs)
    except Exception as error:  # the user's code may raise anything
        raise does_not_run(model, inputs, "inputs of these shapes", error) from error


def _refuse_incomparable(outputs: list[Any]) -> None:
    """Raise InputError when the model's outputs have nothing that a file's could be compared with."""
    for output in outputs:
        tensors = output_tensors(output)
        if not any(tensor.numel() for tensor in tensors):
            raise InputError(
                "The model of export must return tensors with values, alone or in lists, tuples, dicts and objects. "
                f"Got {type(output).__name__}."
            )
        if any(tensor.numel() and bool(torch.isnan(tensor).all()) for tensor in tensors):
            raise InputError(
                "An output of the model is NaN throughout, so no file can be compared with it. "
                "Look for NaN or negative variances in the weights."
            )


def _write_checked(
    path: Path, program: Any, opset: int | None, trials: list[Inputs], expected: list[Any]
) -> tuple[int | None, Proof]:
    """Write the file, complete and in agreement or not at all; return its opset and the comparison."""
    found: list[tuple[int | None, Proof]] = []

    def write(temporary: Path) -> None:
        used = FORMATS[path.suffix].write(program, temporary, opset)
        found.append((used, _compared(temporary, trials, expected, path)))

    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(
            f"The file {path} cannot be written: {error.strerror}. Choose another place."
        ) from error
    return found[0]


def _compared(temporary: Path, trials: list[Inputs], expected: list[Any], path: Path) -> Proof:
    """Run the file on all inputs and compare.

    Raises:
        ProofError: it does not run, or does not agree.
    """
    try:
        run = FORMATS[path.suffix].open(temporary)
        found = [run(inputs) for inputs in trials]
    except Exception as error:  # the runtime may raise anything
        raise ProofError(
            f"The exported {path.name} does not run: {one_line(error)}. Nothing was written."
        ) from error
    proofs = [compare(None, wanted, got, SINGLE) for wanted, got in zip(expected, found, strict=True)]
    proof = replace(joined(proofs), tolerance=TOLERANCE)
    if not proof.holds:
        raise ProofError(
            f"The exported {path.name} does not compute what the model computes: {_distance(proof)} "
            "Nothing was written."
        )
    return proof


def _distance(proof: Proof) -> str:
    if proof.problem:
        return f"{proof.problem}."
    worst = max(proof.outputs, key=lambda agreement: agreement.relative)
    return f"output {worst.output} is off by {worst.relative:.1e} of its largest value, allowed is {proof.tolerance:.0e}."

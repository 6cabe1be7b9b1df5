"""ONNX: torch's dynamo exporter writes, onnxruntime runs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchthin.errors import InputError, one_line
from torchthin.graph.inputs import Inputs
from torchthin.io.export.program import Run

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one ONNX file can hold (protobuf counts in 32 bits), less room for what is not weights."""


def check_onnx() -> None:
    """Raise InputError when the packages of the extra ``export`` are missing, or torch is too old."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"ONNX needs the package {name}. Install the extra: pip install 'torchthin[export]'."
            )
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 6):
        raise InputError(
            f"ONNX needs torch 2.6 or newer, whose exporter follows torch.export. This is {torch.__version__}. "
            "Write a .pt2 file, or update torch."
        )


def write_onnx(program: Any, path: Path, opset: int | None) -> int:
    """Write an exported program as one ONNX file and return the opset it is in.

    Raises:
        InputError: an operator has no translation, torch does not write that opset, or one file cannot hold the weights.
    """
    weight_bytes = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weight_bytes > PROTOBUF_LIMIT:
        raise InputError(
            f"The weights must fit into one ONNX file of 2 GiB. They take {weight_bytes:,} bytes; write a .pt2 file."
        )
    try:
        with _hushed():
            made: Any = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
            used = int(made.model.opset_imports[""])
            made.save(str(path), external_data=False)
    except OSError:  # of the disk, not of the model
        raise
    except Exception as error:  # whatever the exporter raises
        raise InputError(f"torch.onnx cannot take the model: {one_line(error)}.") from error
    if opset not in (None, used):  # torch converts where it can, and keeps its own choice where not
        raise InputError(
            f"The opset of export must be one that torch.onnx writes. Got {opset}; this model came out in {used}. "
            "Leave it out for torch's choice."
        )
    return used


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep the exporter's progress and its warnings about itself off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def run_onnx(path: Path, threads: int | None = None) -> Run:
    """Return what runs an ONNX file in onnxruntime on the CPU. threads: None for onnxruntime's own choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        found = session.run(None, _fed(names, inputs))
        return [torch.from_numpy(value) for value in found]

    return run


def _fed(names: list[str], inputs: Inputs) -> dict[str, Any]:
    """Give each input its name: keyword arguments by theirs, the rest in order."""
    by_name = {
        name: value
        for name, value in (inputs.kwargs or {}).items()
        if isinstance(value, Tensor) and name in names
    }
    rest = Inputs(
        inputs.args, {name: value for name, value in (inputs.kwargs or {}).items() if name not in by_name}
    )
    free = [name for name in names if name not in by_name]
    by_name.update(zip(free, rest.tensors(), strict=True))
    return {name: value.detach().cpu().numpy() for name, value in by_name.items()}

"""The formats of exported files: `.pt2`, which torch writes and runs, and ONNX, which onnxruntime runs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_map, tree_unflatten

from torchthin.errors import InputError, one_line
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one ONNX file can hold (protobuf counts in 32 bits), less room for what is not weights."""
Run = Callable[[Inputs], Any]
"""Runs what was written on inputs and returns its outputs."""


def program_of(model: nn.Module, inputs: Inputs, *, dynamic_batch: bool) -> Any:
    """Return ``torch.export.export`` of a model in evaluation mode.

    Args:
        model: in evaluation mode.
        inputs: an example; with `dynamic_batch`, of two samples or more, since torch takes a size of 1 as fixed.
        dynamic_batch: whether the first axis of every input may have any size.

    Raises:
        InputError: torch.export cannot follow the model's code, or its code fixes the batch size.
    """
    kwargs = dict(inputs.kwargs or {})
    shapes: Any = None
    if dynamic_batch:
        axis = {0: torch.export.Dim("batch")}
        shapes = tuple(_per_tensor(value, axis) for value in (*inputs.args, *kwargs.values()))
        if kwargs and not inputs.args:
            shapes = dict(zip(kwargs, shapes, strict=True))
    try:
        with evaluation_mode(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            return torch.export.export(model, inputs.args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch and the user's code may raise anything
        cure = " Its code may fix the batch size: try without the dynamic batch." if dynamic_batch else ""
        raise InputError(
            f"torch.export cannot take the model ({type(model).__name__}): {one_line(error)}.{cure}"
        ) from error


def _per_tensor(value: Any, axis: dict[int, Any]) -> Any:
    return tree_map(lambda leaf: dict(axis) if isinstance(leaf, Tensor) and leaf.dim() else None, value)


@dataclass(frozen=True)
class Format:
    """How a program of torch.export becomes a file, and the file runs."""

    name: str
    write: Callable[[Any, Path, int | None], int | None]
    """(program, path, opset or None for torch's choice) -> opset of the file, None where the format has none."""
    open: Callable[[Path], Run]


def _write_program(program: Any, path: Path, opset: int | None) -> None:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)  # torch wants paths that end in .pt2; a temporary file's does not
    path.write_bytes(buffer.getvalue())


def _run_program(path: Path) -> Run:
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(inputs: Inputs) -> Any:
        with torch.no_grad():
            return module(*inputs.args, **dict(inputs.kwargs or {}))

    return run


def check_onnx(opset: int | None) -> None:
    """Raise InputError when the packages of the extra ``export`` are missing, torch is too old, or there is no such opset."""
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
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    if opset is not None and (type(opset) is not int or not 1 <= opset <= newest):
        raise InputError(
            f"The opset of export must be a whole number from 1 to {newest}, the newest of the installed onnx. Got {opset!r}. "
            "Leave it out for torch's choice."
        )


def check_fits_onnx(model: nn.Module) -> None:
    """Raise InputError when one ONNX file cannot hold the weights."""
    weight_bytes = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if weight_bytes > PROTOBUF_LIMIT:
        raise InputError(
            f"The weights must fit into one ONNX file of 2 GiB. They take {weight_bytes:,} bytes; write a .pt2 file."
        )


def _write_onnx(program: Any, path: Path, opset: int | None) -> int:
    """Write an exported program as one ONNX file and return the opset it is in.

    Raises:
        InputError: an operator has no translation, or torch does not write that opset.
    """
    try:
        with _without_output():
            made: Any = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
            used = int(made.model.opset_imports[""])
            _name_outputs_(made.model.graph, _output_names(program))
            made.save(str(path), external_data=False)
    except OSError:  # of the disk, not of the model
        raise
    except Exception as error:  # the exporter may raise anything
        raise InputError(f"torch.onnx cannot take the model: {one_line(error)}.") from error
    if opset not in (None, used):  # torch converts where it can, and keeps its own choice where not
        raise InputError(
            f"The opset of export must be one that torch.onnx writes. Got {opset}; this model came out in {used}. "
            "Leave it out for torch's choice."
        )
    return used


def _output_names(program: Any) -> list[str]:
    """Return a name for every tensor that a program returns: keys of dicts and fields, else ``output`` and its position."""
    specs = program.graph_signature.output_specs
    is_tensor = [
        type(spec.arg).__name__ == "TensorArgument" for spec in specs if spec.kind.name == "USER_OUTPUT"
    ]
    spec = program.call_spec.out_spec
    if spec.num_leaves != len(is_tensor):
        return []
    paths = [path for path, _ in tree_flatten_with_path(tree_unflatten(is_tensor, spec))[0]]
    keys = [[_key_text(key) for key in path] for path in paths]
    names = ["_".join(key if key and not key[0].isdigit() else ["output", *key]) for key in keys]
    return [name for name, kept in zip(names, is_tensor, strict=True) if kept]


def _key_text(key: Any) -> str:
    """Return one step of a path of torch's pytree: a dict's key, a position, or the name of a field."""
    return str(next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)))


def _name_outputs_(graph: Any, names: list[str]) -> None:
    """Give the outputs of a graph of onnx_ir these names; torch names them after the operator that makes them."""
    outputs = list(graph.outputs)
    if len(names) != len(outputs) or len(set(map(id, outputs))) < len(outputs):
        return
    inner = [value for node in graph for value in node.outputs if value not in outputs]
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values(), *inner)}
    for value, name in zip(outputs, names, strict=True):
        while name in taken:
            name += "_"
        if not value.is_graph_input():
            value.name = name
            taken.add(name)


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
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
        return [torch.from_numpy(value) for value in session.run(None, _named_arrays(names, inputs))]

    return run


def _named_arrays(names: list[str], inputs: Inputs) -> dict[str, Any]:
    """Give each input its name: keyword arguments by theirs, the rest in order."""
    kwargs = inputs.kwargs or {}
    found = {name: value for name, value in kwargs.items() if isinstance(value, Tensor) and name in names}
    rest = Inputs(inputs.args, {name: value for name, value in kwargs.items() if name not in found})
    found.update(zip([name for name in names if name not in found], rest.tensors(), strict=True))
    return {name: value.detach().cpu().numpy() for name, value in found.items()}


FORMATS = {
    ".pt2": Format("torch.export", _write_program, _run_program),
    ".onnx": Format("ONNX", _write_onnx, run_onnx),
}
"""Ending of the file -> its format."""

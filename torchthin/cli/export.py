"""``torchthin export``: a model as a ``.pt2`` or ONNX file, run and compared before it is kept."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Parser
from torchthin.cli.model_args import (
    add_common_arguments,
    add_subject_arguments,
    given_options,
    loaded,
    needed_inputs,
    tell,
)
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from torchthin.io.export import Exported

DESCRIPTION = "Write a (thinned) model as .pt2 or ONNX, run the file, and keep it only if it agrees."
EXAMPLE = """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --input-shape 1,3,128,128 --to thin.onnx thin.pt2
"""


@dataclass(frozen=True)
class ExportOptions:
    """All an export is told."""

    model_factory: str
    to: tuple[str, ...]
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    dynamic_batch: bool = False
    opset: int | None = None
    fold_batchnorm: bool = False
    json: bool = False


@dataclass(frozen=True)
class Files:
    """What was written."""

    files: tuple[Exported, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {"files": [file.to_dict() for file in self.files]}

    def __str__(self) -> str:
        return "\n".join(map(str, self.files))


def add_export_arguments(parser: Parser) -> None:
    """Add the flags of ``export`` to `parser`."""
    add_subject_arguments(parser)
    writing = parser.add_argument_group("export")
    writing.add_argument(
        "--to",
        metavar="FILE",
        nargs="+",
        help="what to write: .pt2 (torch.export) or .onnx (extra export), by the ending",
    )
    writing.add_argument(
        "--dynamic-batch", action="store_true", help="the first axis of every input may have any size"
    )
    writing.add_argument(
        "--opset",
        metavar="N",
        type=int,
        help="operator set of the ONNX file, such as 18 (default: torch's choice)",
    )
    writing.add_argument(
        "--fold-batchnorm", action="store_true", help="put BatchNorms into the layers before them"
    )
    add_common_arguments(writing)


def export_options(namespace: argparse.Namespace) -> ExportOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory or the file is missing.
    """
    given = given_options(namespace)
    if not given.get("to"):
        raise ConfigError("A file to write is needed. Give --to thin.onnx, --to thin.pt2 or both.")
    twice = [path for path in given["to"] if given["to"].count(path) > 1]
    if twice:
        raise ConfigError(f"The files of --to must differ. Got {twice[0]} more than once.")
    if "opset" in given and not any(path.endswith(".onnx") for path in given["to"]):
        raise ConfigError("The --opset is one of ONNX. Give --to a file that ends in .onnx, or leave it out.")
    return ExportOptions(**given)


def run(options: ExportOptions) -> int:
    """Write, print and return the exit code."""
    tell(lambda: _export(options), as_json=options.json)
    return 0


def _export(options: ExportOptions) -> Files:
    from torchthin.cli.paths import refuse_same_files
    from torchthin.io.atomic import check_destination

    for path in options.to:
        check_destination(path)
    refuse_same_files(
        {path: path for path in options.to},
        {"the checkpoint itself": options.checkpoint},
    )
    inputs = needed_inputs(options)
    model = loaded(options, options.device)
    return Files(tuple(_one(options, Path(path), model, inputs) for path in options.to))


def _one(options: ExportOptions, path: Path, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Exported:
    from torchthin.io.export import export

    return export(
        model,
        path,
        inputs,
        dynamic_batch=options.dynamic_batch,
        opset=options.opset if path.suffix == ".onnx" else None,
        fold_batchnorm=options.fold_batchnorm,
    )

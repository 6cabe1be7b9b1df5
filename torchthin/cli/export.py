"""``torchthin export``: a model as a ``.pt2`` or ONNX file, run and compared before it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import printing
from torchthin.cli.files import check_files
from torchthin.cli.flags_from_fields import Command, json_option, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import option
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torchthin.io.export import Exported


@dataclass(frozen=True)
class ExportArgs:
    """What is written, and how."""

    to: tuple[str, ...] = option(
        (), "--to", "what to write: .pt2 (torch.export) or .onnx (extra export), by the ending", "FILE"
    )
    dynamic_batch: bool = option(False, "--dynamic-batch", "the first axis of every input may have any size")
    opset: int | None = option(
        None, "--opset", "operator set of the ONNX file, such as 18 (default: torch's choice)", "N"
    )
    fold_batchnorm: bool = option(False, "--fold-batchnorm", "put BatchNorms into the layers before them")

    def __post_init__(self) -> None:
        if not self.to:
            raise ConfigError("A file to write is needed. Give --to thin.onnx, --to thin.pt2 or both.")
        twice = [path for path in self.to if self.to.count(path) > 1]
        if twice:
            raise ConfigError(f"The files of --to must differ. Got {twice[0]} more than once.")
        if self.opset is not None and not any(path.endswith(".onnx") for path in self.to):
            raise ConfigError(
                "The --opset is one of ONNX. Give --to a file that ends in .onnx, or leave it out."
            )


@dataclass(frozen=True)
class ExportOptions:
    """All options of an export."""

    model: PositionalModelArgs = part("model")
    export: ExportArgs = part("export")
    json: bool = json_option()


@dataclass(frozen=True)
class ExportedFiles:
    """What was written."""

    files: tuple[Exported, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {"files": [file.to_dict() for file in self.files]}

    def __str__(self) -> str:
        return "\n".join(map(str, self.files))


def _export(options: ExportOptions) -> ExportedFiles:
    from torchthin.io.export import export
    from torchthin.io.export.export_model import check_file

    how = options.export
    opsets = {path: how.opset if path.suffix == ".onnx" else None for path in map(Path, how.to)}
    for path, opset in opsets.items():  # all of them before anything is built or written
        check_file(path, opset)
    check_files({path: path for path in how.to}, options.model.files)
    model, inputs = options.model.load()
    return ExportedFiles(
        tuple(
            export(
                model,
                path,
                inputs,
                dynamic_batch=how.dynamic_batch,
                opset=opset,
                fold_batchnorm=how.fold_batchnorm,
            )
            for path, opset in opsets.items()
        )
    )


COMMAND = Command.of(
    "Write a (thinned) model as .pt2 or ONNX, run the file, and keep it only if it agrees.",
    """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --input-shape 1,3,128,128 --to thin.onnx thin.pt2
""",
    ExportOptions,
    printing(_export),
)

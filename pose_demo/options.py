"""The options of ``scripts/prune_pose_drive.py``, as one value."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchthin.cli.console import Parser
from torchthin.cli.flags_from_fields import add_group, flags_of
from torchthin.cli.model_args import ModelArgs
from torchthin.cli.prune_options import ReportArgs, SynthesisArgs, add_chip_flags
from torchthin.cli.targets import DEFAULT_METHOD, METHODS, prune_config, prune_flags
from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.max7800x import Chip

PICTURES = 256
"""Unlabelled pictures from which a thinned student is recovered."""
_MODELS = Path("MLonMCU/Models/MAX78000")
_DRIVE_SOURCE = _MODELS / "IP_2MB" / "best.pth"
_DRIVE_OUT = _MODELS / "Pruned"
_LOCAL_OUT = Path("runs/pruned")
_HEADS = ("heat_out", "paf_out")
"""Output layers: each of their channels is a joint or a limb."""
_PRUNING = ("target_sparsity", "method", "thin", "exact", "add_biases", "proof")
"""Options of ``torchthin prune`` that are options here, too."""
_EPOCHS = 24
_EXAMPLE = """\
example:
  %(prog)s --target-sparsity 0.5 --out-dir runs/pruned
  %(prog)s --target-sparsity 0.5 --thin --recover
"""


@dataclass(frozen=True)
class SynthesisFiles:
    """What is written for ai8x-synthesis: where, and of which description a corrected copy (None: a new one)."""

    folder: Path
    yaml: str | None


@dataclass(frozen=True)
class Options:
    """What one run is asked for."""

    config: PruneConfig
    source: Path | None
    """The student's checkpoint; None: the shipped one."""
    out_dir: Path
    report: str | None
    """The HTML report to write."""
    device: str
    coco: tuple[str | None, str | None]
    """COCO annotations and the folder of their pictures, to score on."""
    synthesis: SynthesisFiles | None
    recover_epochs: int | None
    """None: the thinned student is not recovered."""

    @property
    def chip(self) -> str | None:
        """The chip that chooses the channels, None where none does."""
        return self.config.target.name if isinstance(self.config.target, Chip) else None

    @property
    def target(self) -> Path:
        """The checkpoint to write."""
        return self.out_dir / file_name(self.config.target.share, self.chip)


def file_name(target_sparsity: float, chip: str | None = None) -> str:
    """Return ``best_pruned_50.pth`` for 0.5, ``best_pruned_37.5.pth`` for 0.375, ``best_pruned_MAX78000.pth`` for a chip."""
    return f"best_pruned_{chip or f'{100 * target_sparsity:.10g}'}.pth"


def student_paths(source: str | None, out_dir: str | None, drive: Path) -> tuple[Path | None, Path]:
    """Return the student to read and the folder to write: as given, else on the mounted Drive, else the defaults."""
    on_drive = drive / _DRIVE_SOURCE
    default_source = on_drive if on_drive.exists() else None
    default_out = drive / _DRIVE_OUT if drive.is_dir() else _LOCAL_OUT
    return (
        default_source if source is None else Path(source),
        default_out if out_dir is None else Path(out_dir),
    )


def parse(arguments: Sequence[str], drive: Path) -> Options:
    """Return what the arguments ask for. Raises ConfigError where they are wrong."""
    given = vars(_parser().parse(arguments))
    recover_epochs = _recover_epochs(given)
    keys = (*_PRUNING, "chip", "target_cycles", "target_kernel_words", "fit")
    config = prune_config(
        {key: given[key] for key in keys if key in given} | {"keep": _HEADS} | _criterion(given)
    )
    source, out_dir = student_paths(given.get("source"), given.get("out_dir"), drive)
    return Options(
        config,
        source,
        out_dir,
        report=given.get("report"),
        device=given.get("device", "cpu"),
        coco=(given.get("coco_annotations"), given.get("coco_images")),
        synthesis=_synthesis(given, config, out_dir),
        recover_epochs=recover_epochs,
    )


def _synthesis(given: dict[str, Any], config: PruneConfig, out_dir: Path) -> SynthesisFiles | None:
    """Return what is to be written for ai8x-synthesis: a thin student for a chip, unless more is asked for."""
    folder, yaml = given.get("synthesis_to"), given.get("synthesis_yaml")
    if folder is None and (not isinstance(config.target, Chip) or not config.thin):
        if yaml is not None:
            raise ConfigError("The --synthesis-yaml needs --synthesis-to FOLDER, or --chip and --thin.")
        return None
    return SynthesisFiles(Path(folder) if folder is not None else out_dir, yaml)


def _criterion(given: dict[str, Any]) -> dict[str, str]:
    """Return what ranks channels: before a recovery, the error that a refit cannot correct; else the method's own."""
    method = METHODS.get(given.get("method", DEFAULT_METHOD))
    refitted = "recover" in given and method is not None and method.target.structured
    return {"criterion": "reconstruction"} if refitted else {}


def _recover_epochs(given: dict[str, Any]) -> int | None:
    """Return the epochs of the recovery, None where none is asked for."""
    if "recover" not in given:
        if "recover_epochs" in given:
            raise ConfigError("The option --recover-epochs needs --recover. Give both.")
        return None
    if "thin" not in given:
        raise ConfigError(
            "The option --recover needs --thin: what is recovered is a thinned model. Give both."
        )
    epochs: int = given.get("recover_epochs", _EPOCHS)
    if epochs < 0:
        raise ConfigError(f"The option --recover-epochs must be at least 0. Got {epochs}.")
    return epochs


def _parser() -> Parser:
    parser = Parser(
        description="Prune the pose student, and print its score on synthetic images before and after.",
        epilog=_EXAMPLE,
    )
    _add_student(parser)
    _add_pruning(parser)
    add_chip_flags(parser)
    files = [flag for key, flag in flags_of(SynthesisArgs).items() if key != "synthesis_chip"]
    written = "Written to the output folder with --chip and --thin, or where --synthesis-to says."
    add_group(parser, "files for ai8x-synthesis", files, written)
    parser.add_argument(
        "--coco-annotations", metavar="FILE", help="score on these COCO keypoints, not on synthetic people"
    )
    parser.add_argument("--coco-images", metavar="FOLDER", help="the pictures that the annotations name")
    flags_of(ReportArgs)["report"].add_to(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_student(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="FILE",
        help="checkpoint of the student (default: IP_2MB/best.pth on the mounted Drive, else the shipped)",
    )
    parser.add_argument(
        "--out-dir",
        metavar="FOLDER",
        help=f"where to write best_pruned_<percent>.pth (default: Pruned on the Drive, else {_LOCAL_OUT})",
    )


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    for key in _PRUNING:
        prune_flags()[key].add_to(parser)
    flags_of(ModelArgs)["device"].add_to(parser)
    parser.add_argument(
        "--recover",
        action="store_true",
        help=f"with --thin: choose channels and refit the thinned student to the full one's outputs on {PICTURES} "
        "unlabelled pictures, cut-outs of the kind it was trained on in new surroundings; none is scored",
    )
    parser.add_argument(
        "--recover-epochs",
        metavar="N",
        type=int,
        help=f"epochs of learning from the full student's outputs after the refit (default: {_EPOCHS})",
    )

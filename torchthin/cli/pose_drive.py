"""Prune the pose student and score it before and after: ``scripts/prune_pose_drive.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchthin.cli.options import add_chip_targets, add_synthesis_arguments
from torchthin.cli.prune import refuse_missed_target
from torchthin.cli.shell import Parser, run_command
from torchthin.config import METHODS, PruneConfig
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.checkpoints import Checkpoint
    from torchthin.cli.outcome import Voice
    from torchthin.pose.score import PoseScore
    from torchthin.synthesis import Synthesis

DRIVE = Path("/content/drive/MyDrive")
"""Where Colab mounts Google Drive."""
_MODELS = Path("MLonMCU/Models/MAX78000")
_DRIVE_SOURCE = _MODELS / "IP_2MB" / "best.pth"
_DRIVE_OUT = _MODELS / "Pruned"
_LOCAL_OUT = Path("runs/pruned")
_HEADS = ("heat_out", "paf_out")
"""Output layers: each of their channels is a joint or a limb."""
_DEFAULTS = PruneConfig()
_EXAMPLE = """\
example:
  %(prog)s --target-sparsity 0.5 --out-dir runs/pruned
"""


@dataclass(frozen=True)
class Places:
    """Where the student is read from (None: the shipped one) and its pruned form written to."""

    source: Path | None
    out_dir: Path


@dataclass(frozen=True)
class ForSynthesis:
    """What is written for ai8x-synthesis: where, and of which description a corrected copy (None: a new one)."""

    folder: Path
    yaml: str | None


def main(argv: Sequence[str] | None = None, *, drive: Path = DRIVE) -> int:
    """Run as a program of its own and return the exit code. `drive` is the mount point of Google Drive."""
    return run_command(lambda arguments: _command(arguments, drive), argv)


def find_places(source: str | None, out_dir: str | None, drive: Path) -> Places:
    """Return what was asked for, else what is on the mounted Drive, else the defaults."""
    on_drive = drive / _DRIVE_SOURCE
    return Places(
        source=Path(source) if source is not None else on_drive if on_drive.exists() else None,
        out_dir=Path(out_dir)
        if out_dir is not None
        else drive / _DRIVE_OUT
        if drive.is_dir()
        else _LOCAL_OUT,
    )


def file_name(target_sparsity: float, chip: str | None = None) -> str:
    """Return ``best_pruned_50.pth`` for 0.5, ``best_pruned_37.5.pth`` for 0.375, ``best_pruned_MAX78000.pth`` for a chip."""
    return f"best_pruned_{chip or f'{100 * target_sparsity:.10g}'}.pth"


def _command(arguments: Sequence[str], drive: Path) -> int:
    options = _parse(arguments)
    keys = ("method", "target_sparsity", "thin", "chip", "target_cycles", "target_kernel_words", "fit")
    config = PruneConfig.from_mapping(
        {key: vars(options)[key] for key in keys if key in options} | {"keep": _HEADS}
    )
    places = find_places(getattr(options, "source", None), getattr(options, "out_dir", None), drive)
    coco = (getattr(options, "coco_annotations", None), getattr(options, "coco_images", None))
    _prune(config, places, getattr(options, "device", "cpu"), coco, _synthesis(options, config, places))
    return 0


def _synthesis(options: argparse.Namespace, config: PruneConfig, places: Places) -> ForSynthesis | None:
    """Return what is to be written for ai8x-synthesis: a thin student for a chip, unless more is asked for."""
    folder, yaml = getattr(options, "synthesis_to", None), getattr(options, "synthesis_yaml", None)
    if folder is None and (config.chip is None or not config.thin):
        if yaml is not None:
            raise ConfigError("The --synthesis-yaml needs --synthesis-to FOLDER, or --chip and --thin.")
        return None
    return ForSynthesis(Path(folder) if folder is not None else places.out_dir, yaml)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Prune the pose student, and print its score on synthetic images before and after.",
        epilog=_EXAMPLE,
    )
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
    parser.add_argument(
        "--target-sparsity",
        metavar="SHARE",
        type=float,
        help=f"share of channels or weights to prune, in [0, 1) (default: {_DEFAULTS.target_sparsity})",
    )
    parser.add_argument("--method", help=f"one of {', '.join(METHODS)} (default: {_DEFAULTS.method})")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--thin",
        action="store_true",
        help="remove what is masked, and check the smaller model against the masked one",
    )
    add_chip_targets(parser)
    synthesis = "Written to the output folder with --chip and --thin, or where --synthesis-to says."
    add_synthesis_arguments(parser.add_argument_group("files for ai8x-synthesis", synthesis))
    parser.add_argument(
        "--coco-annotations", metavar="FILE", help="score on these COCO keypoints, not on synthetic people"
    )
    parser.add_argument("--coco-images", metavar="FOLDER", help="the pictures that the annotations name")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse(arguments)


def _scorer(coco: tuple[str | None, str | None], device: str) -> Callable[[nn.Module], PoseScore]:
    """Return what scores a model: a COCO folder where one is given, else the shipped synthetic people."""
    from torchthin.pose.score import score_coco, score_validation

    annotations, images = coco
    if annotations is None and images is None:
        return lambda model: score_validation(model, device=device)
    if annotations is None or images is None:
        raise ConfigError("The COCO score needs both --coco-annotations FILE and --coco-images FOLDER.")
    return lambda model: score_coco(model, annotations, images, device=device)


def _prune(
    config: PruneConfig,
    places: Places,
    device_name: str,
    coco: tuple[str | None, str | None],
    synthesis: ForSynthesis | None,
) -> None:
    import torch

    from torchthin.checkpoints import check_destination, load_into, read_checkpoint
    from torchthin.cli.inputs import usable_device
    from torchthin.cli.outcome import Voice, save
    from torchthin.pipeline import prune_with
    from torchthin.pose.student import STUDENT_FILE, pose_student
    from torchthin.reload import shrink_to_, with_recipe
    from torchthin.trace.inputs import from_shapes

    target = places.out_dir / file_name(config.target_sparsity, config.chip)
    check_destination(target)
    _check_synthesis(synthesis, target)
    device = usable_device(device_name)
    score = _scorer(coco, str(device))
    voice = Voice()
    checkpoint = read_checkpoint(places.source or STUDENT_FILE)
    model = pose_student()
    checkpoint = with_recipe(checkpoint, model)
    shrink_to_(model, checkpoint)
    load_into(model, checkpoint)
    source = str(places.source) if places.source else "the student shipped with torchthin"
    voice.say(f"Source: {source}")
    voice.say(f"Output: {target}")
    before = score(model.to(device))
    result = prune_with(model, config, from_shapes([((1, 3, 128, 128), torch.float32)]))
    if config.chip is not None:
        config = replace(config, target_sparsity=result.report.target_sparsity)
    files = _for_synthesis(synthesis, result.model, checkpoint, target, config.chip)
    after = score(result.model)
    voice.say(result)
    save(target, result, config, source=source, checkpoint=checkpoint)
    _say_scores(voice, before, after)
    voice.say(f"Saved {target}.")
    if files is not None:
        files.write()
        voice.say(files)
    refuse_missed_target(result.report.to_dict())


def _check_synthesis(synthesis: ForSynthesis | None, target: Path) -> None:
    """Raise before anything runs when a file for synthesis cannot be written, or the description cannot be read."""
    if synthesis is None:
        return
    from torchthin.synthesis.corrected import stated
    from torchthin.synthesis.files import files_of

    files_of(synthesis.folder, target.stem)
    if synthesis.yaml is not None:
        stated(synthesis.yaml)


def _for_synthesis(
    synthesis: ForSynthesis | None, model: nn.Module, checkpoint: Checkpoint, target: Path, chip: str | None
) -> Synthesis | None:
    """Return the files for ai8x-synthesis, checked and not yet written, with a picture of the score as sample."""
    if synthesis is None:
        return None
    import torch

    from torchthin.cli.synthesis import DEFAULT_CHIP
    from torchthin.pose.score import normalise
    from torchthin.pose.student import ARCH
    from torchthin.pose.validation import load_data
    from torchthin.synthesis import ready_for_synthesis

    return ready_for_synthesis(
        model,
        normalise(torch.from_numpy(load_data().images[:1])),
        synthesis.folder,
        chip=chip or DEFAULT_CHIP,
        name=target.stem,
        arch=checkpoint.arch or ARCH,
        epoch=checkpoint.epoch,
        extras=checkpoint.extras,
        description=synthesis.yaml,
    )


def _say_scores(voice: Voice, before: PoseScore, after: PoseScore) -> None:
    title = f"Score on {before.data} ({before.people} pictures)"
    voice.say(f"{title:<56}{'before':>8} {'after':>8}")
    for name, key in (("PCK@0.1", "pck_01"), ("PCK@0.2", "pck_02"), ("mean OKS", "oks")):
        voice.say(f"  {name:<54}{getattr(before, key):8.4f} {getattr(after, key):8.4f}")

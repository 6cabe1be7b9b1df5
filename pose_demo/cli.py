"""Prune the pose student and score it before and after: ``scripts/prune_pose_drive.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchthin.cli.console import Parser, run_command
from torchthin.cli.options import add_chip_targets, add_synthesis_arguments
from torchthin.cli.prune import refuse_missed_target
from torchthin.config import METHODS, PruneConfig
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pose_demo.score import PoseScore
    from torchthin.cli.outcome import Voice
    from torchthin.graph.inputs import Inputs
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.max7800x.synthesis import Synthesis
    from torchthin.pruning.result import PruneResult

DRIVE = Path("/content/drive/MyDrive")
"""Where Colab mounts Google Drive."""
_MODELS = Path("MLonMCU/Models/MAX78000")
_DRIVE_SOURCE = _MODELS / "IP_2MB" / "best.pth"
_DRIVE_OUT = _MODELS / "Pruned"
_LOCAL_OUT = Path("runs/pruned")
_HEADS = ("heat_out", "paf_out")
"""Output layers: each of their channels is a joint or a limb."""
_SCORES = (("PCK@0.1", "pck_01"), ("PCK@0.2", "pck_02"), ("mean OKS", "oks"))
"""Name -> field of `PoseScore`."""
_DEFAULTS = PruneConfig()
PICTURES = 256
"""Unlabelled pictures from which a thinned student is recovered."""
_EPOCHS = 24
_EXAMPLE = """\
example:
  %(prog)s --target-sparsity 0.5 --out-dir runs/pruned
  %(prog)s --target-sparsity 0.5 --thin --recover
"""


@dataclass(frozen=True)
class Places:
    """Where the student is read from (None: the shipped one) and its pruned form written to."""

    source: Path | None
    out_dir: Path
    report: str | None = None
    """The HTML report to write."""


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
    epochs = _recover_epochs(options)
    config = PruneConfig.from_mapping(
        {key: vars(options)[key] for key in keys if key in options} | {"keep": _HEADS} | _criterion(options)
    )
    places = find_places(getattr(options, "source", None), getattr(options, "out_dir", None), drive)
    places = replace(places, report=getattr(options, "report", None))
    coco = (getattr(options, "coco_annotations", None), getattr(options, "coco_images", None))
    synthesis = _synthesis(options, config, places)
    _prune(config, places, getattr(options, "device", "cpu"), coco, synthesis, epochs)
    return 0


def _synthesis(options: argparse.Namespace, config: PruneConfig, places: Places) -> ForSynthesis | None:
    """Return what is to be written for ai8x-synthesis: a thin student for a chip, unless more is asked for."""
    folder, yaml = getattr(options, "synthesis_to", None), getattr(options, "synthesis_yaml", None)
    if folder is None and (config.chip is None or not config.thin):
        if yaml is not None:
            raise ConfigError("The --synthesis-yaml needs --synthesis-to FOLDER, or --chip and --thin.")
        return None
    return ForSynthesis(Path(folder) if folder is not None else places.out_dir, yaml)


def _criterion(options: argparse.Namespace) -> dict[str, str]:
    """Return what ranks channels: with pictures to recover from, what a refit cannot mend; else the method's own."""
    method = METHODS.get(getattr(options, "method", _DEFAULTS.method))
    recovered = "recover" in options and method is not None and method.structured
    return {"criterion": "reconstruction"} if recovered else {}


def _recover_epochs(options: argparse.Namespace) -> int | None:
    """Return the epochs of the recovery, None where none is asked for."""
    if "recover" not in options:
        if "recover_epochs" in options:
            raise ConfigError("The option --recover-epochs needs --recover. Give both.")
        return None
    if "thin" not in options:
        raise ConfigError(
            "The option --recover needs --thin: what is recovered is a thinned model. Give both."
        )
    epochs: int = getattr(options, "recover_epochs", _EPOCHS)
    if epochs < 0:
        raise ConfigError(f"The option --recover-epochs must be at least 0. Got {epochs}.")
    return epochs


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
    add_chip_targets(parser)
    synthesis = "Written to the output folder with --chip and --thin, or where --synthesis-to says."
    add_synthesis_arguments(parser.add_argument_group("files for ai8x-synthesis", synthesis))
    parser.add_argument(
        "--coco-annotations", metavar="FILE", help="score on these COCO keypoints, not on synthetic people"
    )
    parser.add_argument("--coco-images", metavar="FOLDER", help="the pictures that the annotations name")
    parser.add_argument(
        "--report",
        metavar="FILE.html",
        help="report as one page that needs no network, with its JSON beside it",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse(arguments)


def _scorer(coco: tuple[str | None, str | None], device: str) -> Callable[[nn.Module], PoseScore]:
    """Return what scores a model: a COCO folder where one is given, else the shipped synthetic people."""
    from pose_demo.score import score_coco, score_validation

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
    recover_epochs: int | None,
) -> None:
    import torch

    from pose_demo.student import STUDENT_FILE, pose_student
    from pose_demo.unlabelled import unlabelled_inputs
    from torchthin.cli.inputs import usable_device
    from torchthin.cli.outcome import Voice, save
    from torchthin.cli.paths import refuse_same_files
    from torchthin.cli.report_files import check_report, command_line, network_of, write_report
    from torchthin.graph.inputs import from_shapes
    from torchthin.io.atomic import check_destination
    from torchthin.io.checkpoints import load_into, read_checkpoint
    from torchthin.pruning.load import shrink_to_, with_recipe
    from torchthin.pruning.one_shot import prune_with
    from torchthin.report.record import run_record

    target = places.out_dir / file_name(config.target_sparsity, config.chip)
    check_destination(target)
    refuse_same_files(
        {"--out-dir": str(target), "--report": places.report},
        {"the --source itself": str(places.source) if places.source else None},
    )
    _check_synthesis(synthesis, target)
    check_report(places.report, None)
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
    scores = {"before": score(model.to(device))}
    example = from_shapes([((1, 3, 128, 128), torch.float32)])
    network = network_of(model, example) if places.report is not None else None
    pictures = None if recover_epochs is None else unlabelled_inputs(PICTURES)
    result = prune_with(model, config, example, data=pictures)
    if config.chip is not None:
        config = replace(config, target_sparsity=result.report.target_sparsity)
    scores["after"] = score(result.model)
    if recover_epochs is not None and pictures is not None:
        result = _recovered(model, result, example, pictures, recover_epochs)
        scores["recovered"] = score(result.model)
    files = _for_synthesis(synthesis, result.model, checkpoint, target, config.chip)
    voice.say(result)
    save(target, result, config, source=source, checkpoint=checkpoint)
    _say_scores(voice, scores)
    voice.say(f"Saved {target}.")
    if files is not None:
        files.write()
        voice.say(files)
    if places.report is not None:
        first, *_, last = scores.values()
        record = run_record(
            result.report.to_dict(),
            config.to_dict(),
            title="Pose student, pruned",
            command=command_line(),
            network=network,
            scores={name: (getattr(first, key), getattr(last, key)) for name, key in _SCORES},
            scored_on=f"{first.data} ({first.people} pictures)",
        )
        for path in write_report(record, places.report, None):
            voice.say(f"Saved {path}.")
    refuse_missed_target(result.report.to_dict())


def _check_synthesis(synthesis: ForSynthesis | None, target: Path) -> None:
    """Raise before anything runs when a file for synthesis cannot be written, or the description cannot be read."""
    if synthesis is None:
        return
    from torchthin.max7800x.synthesis.corrected import stated
    from torchthin.max7800x.synthesis.files import files_of

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

    from pose_demo.score import normalise
    from pose_demo.student import ARCH
    from pose_demo.validation import load_data
    from torchthin.cli.synthesis import DEFAULT_CHIP
    from torchthin.max7800x.synthesis import ready_for_synthesis

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


def _recovered(
    model: nn.Module, result: PruneResult, example: Inputs, pictures: Tensor, epochs: int
) -> PruneResult:
    """Return the result with a model that is nearer to the full one, from pictures without labels."""
    from torchthin.cli.recovery import progress_bar
    from torchthin.pruning.recover import recover

    # Inputs are not mixed: a mixture of two people is no picture of people.
    with progress_bar("Recovering") as progress:
        return recover(
            model, result, example, pictures,
            limit=PICTURES, epochs=epochs, mix=False, progress=progress,
        )  # fmt: skip


def _say_scores(voice: Voice, scores: Mapping[str, PoseScore]) -> None:
    first = next(iter(scores.values()))
    title = f"Score on {first.data} ({first.people} pictures)"
    widths = {name: max(8, len(name)) for name in scores}
    voice.say(f"{title:<56}" + " ".join(f"{name:>{width}}" for name, width in widths.items()))
    for label, key in _SCORES:
        numbers = (f"{getattr(scores[name], key):{width}.4f}" for name, width in widths.items())
        voice.say(f"  {label:<54}" + " ".join(numbers))

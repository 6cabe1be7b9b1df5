"""Prune the pose student and score it before and after: ``scripts/prune_pose_drive.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pose_demo.options import PICTURES, Options, parse
from torchthin.cli.console import Console, run_command
from torchthin.config import Recovery
from torchthin.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pose_demo.score import PoseScore
    from torchthin.graph.inputs import Inputs
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.max7800x.synthesis import Synthesis
    from torchthin.pruning.result import PruneResult

DRIVE = Path("/content/drive/MyDrive")
"""Where Colab mounts Google Drive."""
_SCORES = (("PCK@0.1", "pck_01"), ("PCK@0.2", "pck_02"), ("mean OKS", "oks"))
"""Name -> field of `PoseScore`."""
_INTEGERS = ", 8-bit integers of the chip"
"""After the name of a score, where the student is computed as the chip does."""


def main(argv: Sequence[str] | None = None, *, drive: Path = DRIVE) -> int:
    """Run as a program of its own and return the exit code. `drive` is the mount point of Google Drive."""
    return run_command(lambda arguments: _run(parse(arguments, drive)), argv)


def _run(options: Options) -> int:
    import torch

    from pose_demo.calibration import calibration_inputs
    from torchthin.cli.model_args import usable_device
    from torchthin.cli.prune import refuse_missed_target
    from torchthin.cli.prune_files import save
    from torchthin.cli.report import network_of
    from torchthin.graph.inputs import from_shapes
    from torchthin.pruning.one_shot import plan_pruning

    _check_files(options)
    device = usable_device(options.device)
    score = _scorer(options.coco, str(device))
    console, target = Console(), options.target
    source = str(options.source) if options.source else "the student shipped with torchthin"
    model, checkpoint = _student(options.source)
    console.say(f"Source: {source}")
    console.say(f"Output: {target}")
    scores = {"before": score(model.to(device))}
    example = from_shapes([((1, 3, 128, 128), torch.float32)])
    network = network_of(model, example) if options.report is not None else None
    data = None if options.recover_epochs is None else calibration_inputs(PICTURES)
    result = plan_pruning(model, example, options.config, data=data).apply()
    scores["after"] = score(result.model)
    if options.recover_epochs is not None and data is not None:
        result = _recovered(model, result, example, data, options.recover_epochs, console)
        scores["recovered"] = score(result.model)
    integers: dict[str, PoseScore] = {}
    for name, scored in (("before", model), (list(scores)[-1], result.model)):
        integers |= _in_integers(name, scored, example, options.chip, score)
    synthesis = _synthesis(options, result.model, checkpoint)
    console.say(result)
    save(target, result, options.config, source=source, checkpoint=checkpoint)
    console.say(_score_table(scores, integers))
    console.say(f"Saved {target}.")
    if synthesis is not None:
        synthesis.write()
        console.say(synthesis)
    for path in _write_report(options, result, network, scores, integers):
        console.say(f"Saved {path}.")
    refuse_missed_target(result.report.to_dict())
    return 0


def _check_files(options: Options) -> None:
    """Raise before anything runs when a file cannot be written, or the description for synthesis cannot be read."""
    from torchthin.cli.files import check_files
    from torchthin.cli.report import check_report

    check_files(
        {"--out-dir": str(options.target), "--report": options.report},
        {"the --source itself": str(options.source) if options.source else None},
    )
    if options.synthesis is not None:
        from torchthin.max7800x.synthesis.files import files_of
        from torchthin.max7800x.synthesis.user_description import read_description

        files_of(options.synthesis.folder, options.target.stem)
        if options.synthesis.yaml is not None:
            read_description(options.synthesis.yaml)
    check_report(options.report, None)


def _student(source: Path | None) -> tuple[nn.Module, Checkpoint]:
    """Return the student with the weights of a checkpoint, thinned if it is, and what the checkpoint tells."""
    from pose_demo.student import STUDENT_FILE, pose_student
    from torchthin.io.checkpoints import load_into, read_checkpoint
    from torchthin.pruning.save_and_load import shrink_to_, with_recipe

    model = pose_student()
    checkpoint = with_recipe(read_checkpoint(source or STUDENT_FILE), model)
    shrink_to_(model, checkpoint)
    load_into(model, checkpoint)
    return model, checkpoint


def _scorer(coco: tuple[str | None, str | None], device: str) -> Callable[[nn.Module], PoseScore]:
    """Return what scores a model: a COCO folder where one is given, else the shipped synthetic people."""
    from pose_demo.score import score_coco, score_validation

    annotations, images = coco
    if annotations is None and images is None:
        return lambda model: score_validation(model, device=device)
    if annotations is None or images is None:
        raise ConfigError("The COCO score needs both --coco-annotations FILE and --coco-images FOLDER.")
    return lambda model: score_coco(model, annotations, images, device=device)


def _recovered(
    model: nn.Module, result: PruneResult, example: Inputs, data: Tensor, epochs: int, console: Console
) -> PruneResult:
    """Return the result with a model that is nearer to the full one, from pictures without labels."""
    from torchthin.pruning.recover import recover

    # Inputs are not mixed: a mixture of two people is no picture of people.
    with console.progress("Recovering", "epochs") as progress:
        recovery = Recovery(epochs=epochs, mixup=False, max_samples=PICTURES)
        return recover(model, result, example, data, recovery=recovery, progress=progress)


def _synthesis(options: Options, model: nn.Module, checkpoint: Checkpoint) -> Synthesis | None:
    """Return the files for ai8x-synthesis, checked and not yet written, with a picture of the score as sample."""
    if options.synthesis is None:
        return None
    import torch

    from pose_demo.score import normalise
    from pose_demo.student import ARCH
    from pose_demo.validation import load_data
    from torchthin.cli.prune_files import DEFAULT_CHIP
    from torchthin.max7800x.synthesis import ready_for_synthesis

    return ready_for_synthesis(
        model,
        normalise(torch.from_numpy(load_data().images[:1])),
        options.synthesis.folder,
        chip=options.chip or DEFAULT_CHIP,
        name=options.target.stem,
        arch=checkpoint.arch or ARCH,
        epoch=checkpoint.epoch,
        extras=checkpoint.extras,
        description=options.synthesis.yaml,
    )


def _write_report(
    options: Options,
    result: PruneResult,
    network: Mapping[str, object] | None,
    scores: Mapping[str, PoseScore],
    integers: Mapping[str, PoseScore],
) -> Sequence[str]:
    """Write the HTML report and its JSON where they are asked for, and return their paths."""
    if options.report is None:
        return ()
    from torchthin.cli.report import command_line, write_report
    from torchthin.report.record import run_record

    first, *_, last = scores.values()
    pairs = {name: (getattr(first, key), getattr(last, key)) for name, key in _SCORES}
    if len(integers) > 1:
        before, after = integers.values()
        pairs |= {f"{name}{_INTEGERS}": (getattr(before, key), getattr(after, key)) for name, key in _SCORES}
    record = run_record(
        result.report.to_dict(),
        {**options.config.to_dict(), "target_sparsity": result.report.request.target_sparsity},
        title="Pose student, pruned",
        command=command_line(),
        network=network,
        scores=pairs,
        scored_on=f"{first.data} ({first.people} pictures)",
    )
    return write_report(record, options.report, None)


def _in_integers(
    name: str,
    model: nn.Module,
    example: Inputs,
    chip: str | None,
    score: Callable[[nn.Module], PoseScore],
) -> dict[str, PoseScore]:
    """Return the score of what the chip computes, under `name`; nothing where the model does not run there."""
    from torchthin.cli.prune_files import DEFAULT_CHIP
    from torchthin.max7800x import integer_model

    try:
        return {name: score(integer_model(model, example, chip or DEFAULT_CHIP))}
    except InputError:
        return {}


def _score_table(scores: Mapping[str, PoseScore], integers: Mapping[str, PoseScore]) -> str:
    first = next(iter(scores.values()))
    title = f"Score on {first.data} ({first.people} pictures)"
    widths = {name: max(8, len(name)) for name in scores}
    lines = [f"{title:<56}" + " ".join(f"{name:>{width}}" for name, width in widths.items())]
    for found, kind in ((scores, ""), (integers, _INTEGERS)) if integers else ((scores, ""),):
        for label, key in _SCORES:
            numbers = (
                f"{getattr(found[name], key):{width}.4f}" if name in found else f"{'-':>{width}}"
                for name, width in widths.items()
            )
            lines.append(f"  {label + kind:<54}" + " ".join(numbers))
    return "\n".join(lines)

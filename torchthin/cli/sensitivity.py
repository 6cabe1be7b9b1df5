"""``torchthin sensitivity``: what losing channels costs, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console, print_json, stdout_to_stderr
from torchthin.cli.data_args import MetricArgs, data_option, named_metric
from torchthin.cli.files import check_files, write_json
from torchthin.cli.flags_from_fields import Command, json_option, like, part
from torchthin.cli.model_args import ModelArgs
from torchthin.config import CHANNEL_CRITERIA, PruneConfig, option

if TYPE_CHECKING:
    from torchthin.selection.sensitivity_table import Sensitivity


@dataclass(frozen=True)
class EvaluationArgs(MetricArgs):
    """What cut models are evaluated on."""

    data: str | None = data_option("the distance and for criteria, 256 of them", "noise")


@dataclass(frozen=True)
class ScanArgs:
    """What is cut, and where results are kept."""

    ratios: tuple[float, ...] | None = option(
        None, "--ratios", "shares of a group to cut, between 0 and 1 (default: 0.1 0.2 ... 0.9)", "SHARE"
    )
    criterion: str | None = like(
        PruneConfig,
        "criterion",
        help=f"what says which channels are cut first: {', '.join(CHANNEL_CRITERIA)} (default: l1)",
    )
    include: tuple[str, ...] | None = like(PruneConfig, "include")
    exclude: tuple[str, ...] = like(PruneConfig, "exclude")
    seed: int = like(PruneConfig, "seed")
    cache: str | None = option(
        None,
        "--cache",
        "file to which each result is written at once: an interrupted run continues from it",
        "FILE",
    )
    save_to: str | None = option(None, "--save-to", "JSON file for prune --allocation", "FILE")


@dataclass(frozen=True)
class SensitivityOptions:
    """All options of a scan."""

    model: ModelArgs = part("model")
    evaluation: EvaluationArgs = part("evaluation")
    scan: ScanArgs = part("scan")
    json: bool = json_option()


def run(options: SensitivityOptions) -> int:
    """Scan, print, write last, and return the exit code."""
    with stdout_to_stderr(options.json):
        table = _scan(options)
        if not options.json:
            print(table)
        path = options.scan.save_to
        if path is not None:
            write_json(path, table.to_dict(), "--save-to")
            print(f"Saved {path}.")
    if options.json:
        print_json(table.to_dict())
    return 0


def _scan(options: SensitivityOptions) -> Sensitivity:
    from torchthin.pruning.sensitivity import sensitivity

    how, evaluation = options.scan, options.evaluation
    check_files(
        {"--save-to": how.save_to, "--cache": how.cache},
        {**options.model.files, "the --data": evaluation.data},
    )
    console = Console()
    model, inputs = options.model.load(console)
    ratios: dict[str, Any] = {} if how.ratios is None else {"ratios": how.ratios}
    with named_metric(evaluation.metric) as metric, console.progress("evaluations") as progress:
        return sensitivity(
            model,
            inputs,
            data=evaluation.data,
            metric=metric,
            criterion=how.criterion,
            include=how.include,
            exclude=how.exclude,
            seed=how.seed,
            cache=how.cache,
            workers=evaluation.workers,
            progress=progress,
            **ratios,
        )


COMMAND = Command.of(
    "Measure what every group of channels costs at several ratios; prune --allocation spreads a budget by it.",
    """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --data calibration.npy --cache scan.jsonl --workers 4 --save-to scan.json
  torchthin prune ... --target-macs 0.5x --allocation scan.json --thin
""",
    SensitivityOptions,
    run,
)

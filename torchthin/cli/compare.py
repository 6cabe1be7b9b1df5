"""``torchthin compare``: many ways to cut one model, side by side, and the smallest that is good enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console, print_json, stdout_to_stderr
from torchthin.cli.data_args import DataArgs, MetricArgs, data_option, named_metric
from torchthin.cli.files import check_files, write_file
from torchthin.cli.flags_from_fields import Command, json_option, like, part
from torchthin.cli.model_args import ModelArgs
from torchthin.cli.targets import METHODS, prune_config
from torchthin.config import (
    CHANNEL_CRITERIA,
    WEIGHT_CRITERIA,
    Budget,
    PruneConfig,
    Ratio,
    Recovery,
    option,
)
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torchthin.pruning.comparison.comparison import Comparison

COSTS = ("macs", "parameters", "bytes", "latency", "cycles")


@dataclass(frozen=True)
class CompareData(DataArgs):
    """Calibration data, on which the distance is taken too."""

    data: str | None = data_option(
        "the distance, for criteria and for recovery", "noise, for the distance only"
    )


@dataclass(frozen=True)
class GridArgs:
    """Every method with every criterion and every target."""

    method: tuple[str, ...] = option(
        ("l1-structured",),
        "--method",
        f"each with every criterion and target: of {', '.join(METHODS)} (default: l1-structured)",
        "NAME",
    )
    criterion: tuple[str, ...] | None = option(
        None,
        "--criterion",
        f"of {', '.join(CHANNEL_CRITERIA)}; unstructured methods: {', '.join(WEIGHT_CRITERIA)} (default: the method's own)",
        "NAME",
    )
    target_sparsity: tuple[float, ...] = like(Ratio, "ratio", (), help="shares of channels to prune")
    target_macs: tuple[str, ...] = like(Budget, "macs", (), help="budgets such as 0.5x")
    target_params: tuple[str, ...] = like(Budget, "params", (), help="budgets such as 0.4x")
    target_latency: tuple[str, ...] = like(
        Budget, "latency", (), help="times of one forward pass on the device at hand, such as 0.6x or 12ms"
    )
    scope: str = like(Ratio, "scope", help="group or global, for all of the grid (default: group)")
    weights: tuple[str, ...] | None = like(PruneConfig, "include")
    keep: tuple[str, ...] = like(PruneConfig, "exclude")
    seed: int = like(PruneConfig, "seed")

    def configs(self) -> tuple[PruneConfig, ...]:
        """Return one configuration for every method, criterion and target, each once.

        Raises:
            ConfigError: the grid is empty, or one of its points is no configuration.
        """
        targets: list[dict[str, Any]] = [
            {key: value}
            for key in ("target_sparsity", "target_macs", "target_params", "target_latency")
            for value in getattr(self, key)
        ]
        common = {key: getattr(self, key) for key in ("scope", "weights", "keep", "seed")}
        made = [
            prune_config({"method": method, "criterion": criterion, "thin": True, **common, **target})
            for method in self.method
            for criterion in self.criterion or (None,)
            for target in targets
        ]
        if not made:
            raise ConfigError(
                "The grid of compare is empty. Give at least one method, one criterion and one target: --target-sparsity, "
                "--target-macs, --target-params or --target-latency."
            )
        return tuple(dict.fromkeys(made))


@dataclass(frozen=True)
class MeasuredArgs(MetricArgs):
    """What is measured of every candidate, and where results are kept."""

    latency: int = option(
        0,
        "--latency",
        "forward passes of dense and thinned model, in turns, for a median in ms (default: 0, not measured)",
        "N",
    )
    chip: str | None = like(
        Chip, "name", None, help=f"count cycles on it: {', '.join(list_chips())} (default: none)"
    )
    rows: str | None = option(
        None,
        "--rows",
        "file to which each row is written at once: an interrupted run continues from it",
        "FILE",
    )
    storage: str | None = option(
        None,
        "--storage",
        "database of Optuna (extra search), such as sqlite:///grid.db, by which runs of the same command share the grid",
        "URL",
    )


@dataclass(frozen=True)
class AnswerArgs:
    """What is shown of the results."""

    cost: str = option("macs", "--cost", f"what counts as small: {', '.join(COSTS)} (default: macs)")
    within: float = option(
        0.01,
        "--within",
        "what the smallest model may lose: a share of the dense metric; without --metric, the distance (default: 0.01)",
        "SHARE",
    )
    plot: str | None = option(None, "--plot", "draw the rows and the front (extra plot)", "FILE.png")


@dataclass(frozen=True)
class CompareOptions:
    """All options of a comparison."""

    model: ModelArgs = part("model")
    data: CompareData = part("data")
    grid: GridArgs = part("grid")
    measured: MeasuredArgs = part("evaluation")
    answer: AnswerArgs = part("output")
    json: bool = json_option()


def run(options: CompareOptions) -> int:
    """Compare, print, draw, and return the exit code.

    Raises:
        TargetMissedError: no candidate could be made (exit code 3).
    """
    from torchthin.pruning.comparison.text import comparison_text, draw

    answer = options.answer
    with stdout_to_stderr(options.json):
        found = _compared(options)
        if not options.json:
            print(comparison_text(found, answer.cost, answer.within))
        if answer.plot is not None:
            write_file(answer.plot, lambda temporary: draw(found, temporary, answer.cost), "--plot")
            print(f"Saved {answer.plot}.")
    if options.json:
        print_json(found.to_dict(answer.cost, answer.within))
    if found.rows and found.all_failed:
        raise TargetMissedError(
            f"All {len(found.rows)} candidates failed. The first: {found.rows[0].failure}"
        )
    return 0


def _compared(options: CompareOptions) -> Comparison:
    from torchthin.pruning.comparison.compare import compare

    _check_output(options)
    measured, data = options.measured, options.data
    candidates, recovery = options.grid.configs(), _recovery(options)
    console = Console()
    model, inputs = options.model.load(Console(quiet=True))
    read = data.read(model, inputs, options.model, console)
    with named_metric(measured.metric) as metric, console.progress("candidates") as progress:
        return compare(
            model,
            inputs,
            candidates,
            data=read,
            metric=metric,
            recovery=recovery,
            cost=None if measured.chip is None else Chip(measured.chip),
            latency=measured.latency,
            rows=measured.rows,
            workers=measured.workers,
            storage=measured.storage,
            progress=progress,
        )


def _recovery(options: CompareOptions) -> Recovery | None:
    data = options.data
    if data.recovery.epochs and (data.data is None or not data.recover):
        raise ConfigError("The option --recover-epochs needs --data, without --no-recover.")
    return replace(data.recovery, seed=options.grid.seed) if data.recover else None


def _check_output(options: CompareOptions) -> None:
    """Raise what is wrong with the output before anything is evaluated."""
    from torchthin.pruning.comparison.comparison import check_cost, check_within
    from torchthin.report.plots import check_plots

    answer, measured = options.answer, options.measured
    check_cost(answer.cost)
    check_within(answer.within)
    needed = {"latency": ("--latency", measured.latency), "cycles": ("--chip", measured.chip)}
    flag, value = needed.get(answer.cost, ("", True))
    if not value:
        raise ConfigError(f"The cost {answer.cost} needs {flag}.")
    if answer.plot is not None:
        check_plots()
        if Path(answer.plot).suffix != ".png":
            raise ConfigError(f"The file of --plot must end in .png. Got {answer.plot}.")
    check_files(
        {"--plot": answer.plot, "--rows": measured.rows},
        {**options.model.files, "the --data": options.data.data},
    )


COMMAND = Command.of(
    "Cut a model in many ways, measure each, and show which are worth having.",
    """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --criterion l1 fpgm taylor --target-macs 0.7x 0.5x 0.3x --data pictures/ --metric score.py:accuracy \\
      --rows rows.jsonl --workers 4 --plot front.png
""",
    CompareOptions,
    run,
)

"""``torchthin compare``: many ways to cut one model, side by side, and the smallest that is good enough."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Parser
from torchthin.cli.flags import flags_with_model, followed_inputs, talk_aside
from torchthin.cli.metric import (
    add_metric_argument,
    add_weights_arguments,
    add_workers_argument,
    evaluations_bar,
    named_metric,
)
from torchthin.cli.options import add_data_argument, add_model_arguments, add_recovery_arguments
from torchthin.cli.paths import files_read, refuse_same_files
from torchthin.cli.targets import METHODS, prune_config
from torchthin.config import CHANNEL_CRITERIA, WEIGHT_CRITERIA, PruneConfig, Recovery
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torchthin.pruning.comparison.comparison import Comparison

DESCRIPTION = "Cut a model in many ways, measure each, and show which are worth having."
EXAMPLE = """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --criterion l1 fpgm taylor --target-macs 0.7x 0.5x 0.3x --data pictures/ --metric score.py:accuracy \\
      --rows rows.jsonl --workers 4 --plot front.png
"""
COSTS = ("macs", "parameters", "bytes", "latency", "cycles")


@dataclass(frozen=True)
class CompareOptions:
    """All a comparison is told."""

    model_factory: str
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    data: str | None = None
    data_limit: int = 256
    data_mean: tuple[float, ...] = (0.0,)
    data_std: tuple[float, ...] = (1.0,)
    recover: bool = True
    recover_epochs: int = 0
    recover_outputs: str = "values"
    metric: str | None = None
    method: tuple[str, ...] = ("l1-structured",)
    criterion: tuple[str | None, ...] = (None,)
    target_sparsity: tuple[float, ...] = ()
    target_macs: tuple[str, ...] = ()
    target_params: tuple[str, ...] = ()
    scope: str = "group"
    weights: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    seed: int = 0
    chip: str | None = None
    latency: int = 0
    rows: str | None = None
    workers: int = 1
    storage: str | None = None
    cost: str = "macs"
    within: float = 0.01
    plot: str | None = None
    json: bool = False


def add_compare_arguments(parser: Parser) -> None:
    """Add the flags of ``compare`` to `parser`."""
    add_model_arguments(parser)
    add_data_argument(parser, "the distance, for criteria and for recovery", "noise, for the distance only")
    add_recovery_arguments(parser)
    _add_grid(parser)
    measured = parser.add_argument_group("what is measured")
    add_metric_argument(measured)
    measured.add_argument(
        "--latency",
        metavar="N",
        type=int,
        help="forward passes of dense and thinned model, in turns, for a median in ms (default: 0, not measured)",
    )
    measured.add_argument(
        "--chip", metavar="NAME", help=f"count cycles on it: {', '.join(list_chips())} (default: none)"
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--rows",
        metavar="FILE",
        help="file that keeps each row at once: a run that was ended goes on from it",
    )
    add_workers_argument(running)
    running.add_argument(
        "--storage",
        metavar="URL",
        help="database of Optuna (extra search), such as sqlite:///grid.db, by which runs of the same command share the grid",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--cost", help=f"what counts as small: {', '.join(COSTS)} (default: macs)")
    output.add_argument(
        "--within",
        metavar="SHARE",
        type=float,
        help="what the smallest model may lose: a share of the dense metric; without --metric, the distance (default: 0.01)",
    )
    output.add_argument("--plot", metavar="FILE.png", help="draw the rows and the front (extra plot)")
    output.add_argument("--json", action="store_true", help="all rows as JSON on stdout, all else on stderr")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_grid(parser: Parser) -> None:
    grid = parser.add_argument_group("grid", "Every method with every criterion and every target.")
    grid.add_argument(
        "--method", metavar="NAME", nargs="+", help=f"of {', '.join(METHODS)} (default: l1-structured)"
    )
    grid.add_argument(
        "--criterion",
        metavar="NAME",
        nargs="+",
        help=f"of {', '.join(CHANNEL_CRITERIA)}; unstructured methods: {', '.join(WEIGHT_CRITERIA)} (default: the method's own)",
    )
    grid.add_argument(
        "--target-sparsity", metavar="SHARE", type=float, nargs="+", help="shares of channels to prune"
    )
    grid.add_argument("--target-macs", metavar="LIMIT", nargs="+", help="budgets such as 0.5x")
    grid.add_argument("--target-params", metavar="LIMIT", nargs="+", help="budgets such as 0.4x")
    grid.add_argument("--scope", help="group or global, for all of the grid (default: group)")
    add_weights_arguments(grid)
    grid.add_argument(
        "--seed", metavar="N", type=int, help="seed of random numbers that criteria draw (default: 0)"
    )


def compare_options(namespace: argparse.Namespace) -> CompareOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory is missing.
    """
    return CompareOptions(**flags_with_model(namespace))


def run(options: CompareOptions) -> int:
    """Compare, print, draw, and return the exit code. With ``--json``, stdout gets nothing but the JSON.

    Raises:
        TargetMissedError: no candidate could be made (exit code 3).
    """
    from torchthin.pruning.comparison.text import comparison_text

    with talk_aside(options.json):
        found = _compared(options)
        facts = found.to_dict(options.cost, options.within)
        if not options.json:
            print(comparison_text(found, options.cost, options.within))
        if options.plot is not None:
            _draw(found, Path(options.plot), options.cost)
            print(f"Saved {options.plot}.")
    if options.json:
        print(json.dumps(facts, indent=2))
    if found.rows and found.all_failed:
        raise TargetMissedError(
            f"All {len(found.rows)} candidates failed. The first: {found.rows[0].failure}"
        )
    return 0


def _draw(found: Comparison, path: Path, cost: str) -> None:
    from torchthin.io.atomic import write_whole
    from torchthin.pruning.comparison.text import draw

    try:
        write_whole(path, lambda temporary: draw(found, temporary, cost))
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be written: {error.strerror}. Check --plot.") from error


def _check_output(options: CompareOptions) -> None:
    """Raise what is wrong with the output before anything is evaluated."""
    from torchthin.pruning.comparison.comparison import check_cost, check_within

    check_cost(options.cost)
    check_within(options.within)
    needs = {"latency": ("--latency", options.latency), "cycles": ("--chip", options.chip)}
    flag, given = needs.get(options.cost, ("", True))
    if not given:
        raise ConfigError(f"The cost {options.cost} needs {flag}.")
    if options.plot is not None:
        from torchthin.io.atomic import check_destination
        from torchthin.report.plots import check_plots

        check_plots()
        if Path(options.plot).suffix != ".png":
            raise ConfigError(f"The file of --plot must end in .png. Got {options.plot}.")
        check_destination(options.plot)
    refuse_same_files(
        {"--plot": options.plot, "--rows": options.rows},
        files_read(options.checkpoint, options.model_factory, options.data),
    )


def _grid(options: CompareOptions) -> tuple[PruneConfig, ...]:
    """Return one configuration for every method, criterion and target, each once.

    Raises:
        ConfigError: the grid is empty, or one of its points is no configuration.
    """
    targets: list[dict[str, Any]] = [
        *({"target_sparsity": value} for value in options.target_sparsity),
        *({"target_macs": value} for value in options.target_macs),
        *({"target_params": value} for value in options.target_params),
    ]
    common = {
        "scope": options.scope,
        "weights": options.weights,
        "keep": options.keep,
        "seed": options.seed,
        "thin": True,
    }
    made = [
        prune_config({"method": method, "criterion": criterion, **common, **target})
        for method in options.method
        for criterion in options.criterion
        for target in targets
    ]
    if not made:
        raise ConfigError(
            "The grid of compare is empty. Give at least one method, one criterion and one target: --target-sparsity, "
            "--target-macs or --target-params."
        )
    return tuple(dict.fromkeys(made))


def _recovery(options: CompareOptions) -> Recovery | None:
    if options.recover_epochs and (options.data is None or not options.recover):
        raise ConfigError("The option --recover-epochs needs --data, without --no-recover.")
    recovery = Recovery(epochs=options.recover_epochs, loss=options.recover_outputs, seed=options.seed)
    return recovery if options.recover else None


def _compared(options: CompareOptions) -> Comparison:
    from torchthin.cli.inputs import placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice
    from torchthin.cli.recovery import calibrated
    from torchthin.pruning.comparison.compare import compare

    _check_output(options)
    candidates, recovery = _grid(options), _recovery(options)
    inputs = followed_inputs(options)
    model, _ = load_model(options, Voice(quiet=True))
    model = placed(model, usable_device(options.device))
    with named_metric(options.metric) as metric, evaluations_bar("candidates") as progress:
        return compare(
            model,
            inputs,
            candidates,
            data=calibrated(options, model, inputs),
            metric=metric,
            recovery=recovery,
            cost=None if options.chip is None else Chip(options.chip),
            latency=options.latency,
            rows=options.rows,
            workers=options.workers,
            storage=options.storage,
            progress=progress,
        )

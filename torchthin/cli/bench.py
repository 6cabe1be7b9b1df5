"""``torchthin bench``: what thinning brings at run time."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    from torchthin.evaluation.bench import BenchResult

DESCRIPTION = "Measure latency, memory and file sizes of the dense and the thinned model, in turns."
EXAMPLE = """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --input-shape 1,3,128,128 --threads 1
"""


@dataclass(frozen=True)
class BenchOptions:
    """All a measurement is told."""

    model_factory: str
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dense_checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    repeats: int = 30
    warmup: int = 5
    threads: int | None = None
    runtimes: tuple[str, ...] | None = None
    json: bool = False


def add_bench_arguments(parser: Parser) -> None:
    """Add the flags of ``bench`` to `parser`."""
    add_subject_arguments(parser)
    measuring = parser.add_argument_group("measurement")
    measuring.add_argument(
        "--dense-checkpoint",
        metavar="FILE",
        help="weights of the dense model (default: as the factory made them; speed seldom depends on them)",
    )
    measuring.add_argument(
        "--repeats", metavar="N", type=int, help="measured runs of each model (default: 30)"
    )
    measuring.add_argument(
        "--warmup", metavar="N", type=int, help="runs of each before that, not measured (default: 5)"
    )
    measuring.add_argument(
        "--threads", metavar="N", type=int, help="threads of the CPU to use (default: as torch chooses)"
    )
    measuring.add_argument(
        "--runtimes",
        metavar="NAME",
        nargs="+",
        help="torch, onnxruntime (default: both, where onnxruntime is installed)",
    )
    add_common_arguments(measuring)


def bench_options(namespace: argparse.Namespace) -> BenchOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory or the checkpoint is missing.
    """
    given = given_options(namespace)
    if "checkpoint" not in given:
        raise ConfigError(
            "A thinned checkpoint is needed to compare with the dense model. Give --checkpoint thin.pth."
        )
    return BenchOptions(**given)


def run(options: BenchOptions) -> int:
    """Measure, print and return the exit code."""
    tell(lambda: _bench(options), as_json=options.json)
    return 0


def _bench(options: BenchOptions) -> BenchResult:
    from torchthin.evaluation.bench import bench

    inputs = needed_inputs(options)
    thinned = loaded(options, options.device)
    dense = loaded(replace(options, checkpoint=options.dense_checkpoint), options.device)
    result = bench(
        dense,
        thinned,
        inputs,
        repeats=options.repeats,
        warmup=options.warmup,
        threads=options.threads,
        runtimes=options.runtimes,
    )
    if result.dense.parameters == result.thinned.parameters:
        note = f"{options.checkpoint} is not thinned: both models have the same size."
        return replace(result, notes=(*result.notes, note))
    return result

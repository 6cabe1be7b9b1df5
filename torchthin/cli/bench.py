"""``torchthin bench``: what thinning brings at run time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torchthin.cli.console import printing
from torchthin.cli.flags_from_fields import Command, json_option, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import option
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torchthin.evaluation.bench import BenchResult


@dataclass(frozen=True)
class MeasurementArgs:
    """How the two models are measured."""

    dense_checkpoint: str | None = option(
        None,
        "--dense-checkpoint",
        "weights of the dense model (default: as the factory made them; speed seldom depends on them)",
        "FILE",
    )
    repeats: int = option(30, "--repeats", "measured runs of each model (default: 30)", "N")
    warmup: int = option(5, "--warmup", "runs of each before that, not measured (default: 5)", "N")
    threads: int | None = option(
        None, "--threads", "threads of the CPU to use (default: as torch chooses)", "N"
    )
    runtimes: tuple[str, ...] | None = option(
        None, "--runtimes", "torch, onnxruntime (default: both, where onnxruntime is installed)", "NAME"
    )


@dataclass(frozen=True)
class BenchOptions:
    """All options of a measurement."""

    model: PositionalModelArgs = part("model")
    measurement: MeasurementArgs = part("measurement")
    json: bool = json_option()

    def __post_init__(self) -> None:
        if self.model.checkpoint is None:
            raise ConfigError(
                "A thinned checkpoint is needed to compare with the dense model. Give --checkpoint thin.pth."
            )


def _bench(options: BenchOptions) -> BenchResult:
    from torchthin.evaluation.bench import bench

    how = options.measurement
    thinned, inputs = options.model.load()
    dense, _ = replace(options.model, model=None, checkpoint=how.dense_checkpoint).load()
    result = bench(
        dense,
        thinned,
        inputs,
        repeats=how.repeats,
        warmup=how.warmup,
        threads=how.threads,
        runtimes=how.runtimes,
    )
    if result.dense.parameters == result.thinned.parameters:
        note = f"{options.model.checkpoint} is not thinned: both models have the same size."
        return replace(result, notes=(*result.notes, note))
    return result


COMMAND = Command.of(
    "Measure latency, memory and file sizes of the dense and the thinned model, in turns.",
    """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --input-shape 1,3,128,128 --threads 1
""",
    BenchOptions,
    printing(_bench),
)

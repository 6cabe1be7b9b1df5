"""``torchthin verify``: do two models compute the same?"""

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
from torchthin.cli.options import json_object
from torchthin.errors import ConfigError, ProofError

if TYPE_CHECKING:
    from torchthin.thinning.proof import Proof

DESCRIPTION = "Run two models on the same inputs and compare every output; exit code 3 when they differ."
EXAMPLE = """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --against-checkpoint masked.pth --input-shape 1,3,128,128
  %(prog)s models/net.py:small --checkpoint thin.pth --against-checkpoint best.pth --masked \\
      --input-shape 1,3,128,128
"""
RUNS = 3


@dataclass(frozen=True)
class VerifyOptions:
    """All a comparison is told."""

    model_factory: str
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    against: str | None = None
    against_args: Mapping[str, Any] | None = None
    against_checkpoint: str | None = None
    masked: bool = False
    runs: int = RUNS
    tolerance: float | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    json: bool = False


@dataclass(frozen=True)
class _Against:
    """The model that says what is right."""

    model_factory: str
    factory_args: Mapping[str, Any] | None
    checkpoint: str | None


@dataclass(frozen=True)
class Comparison:
    """The proof, per output and run."""

    proof: Proof
    runs: int
    expected: tuple[str, ...]
    """What the checkpoint's own report says must differ."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {**self.proof.to_dict(), "runs": self.runs, "inexact": list(self.expected)}

    def __str__(self) -> str:
        lines = [
            f"run {1 + number // self._each}, output {item.output} {tuple(item.shape)}: off by {item.max_error:.1e}, "
            f"{item.relative:.1e} of its largest value"
            for number, item in enumerate(self.proof.outputs)
        ]
        known = [
            f"The report of the checkpoint names where it cannot be equal: {item}" for item in self.expected
        ]
        return "\n".join([*lines, f"{self.proof}; allowed is {self.proof.tolerance:.0e}.", *known])

    @property
    def _each(self) -> int:
        return max(1, len(self.proof.outputs) // self.runs)


def add_verify_arguments(parser: Parser) -> None:
    """Add the flags of ``verify`` to `parser`."""
    add_subject_arguments(parser)
    other = parser.add_argument_group("the model that says what is right")
    other.add_argument(
        "--against", metavar="MODULE:FUNCTION", help="function that returns it (default: the same)"
    )
    other.add_argument(
        "--against-args", metavar="JSON", type=json_object, help="keyword arguments of that function"
    )
    other.add_argument("--against-checkpoint", metavar="FILE", help="its weights")
    other.add_argument(
        "--masked",
        action="store_true",
        help="put the masks of --checkpoint on it first: a pruned checkpoint against its dense model",
    )
    comparing = parser.add_argument_group("comparison")
    comparing.add_argument(
        "--runs",
        metavar="N",
        type=int,
        help=f"the example and N - 1 fresh random inputs (default: {RUNS})",
    )
    comparing.add_argument(
        "--tolerance",
        metavar="SHARE",
        type=float,
        help="of each output's largest value (default: 1e-6 in float64, 1e-3 for models too large for that)",
    )
    add_common_arguments(comparing)


def verify_options(namespace: argparse.Namespace) -> VerifyOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory is missing, or a value is out of range.
    """
    options = VerifyOptions(**given_options(namespace))
    if options.runs < 1:
        raise ConfigError(f"The --runs must be at least 1. Got {options.runs}.")
    if options.tolerance is not None and not 0 <= options.tolerance < 1:
        raise ConfigError(f"The --tolerance must be in [0, 1). Got {options.tolerance}.")
    if options.against is None and options.against_checkpoint is None:
        raise ConfigError("A second model is needed. Give --against-checkpoint FILE, --against, or both.")
    if options.masked and options.checkpoint is None:
        raise ConfigError("The --masked needs the masks of a pruned file. Give it as --checkpoint FILE.")
    return options


def run(options: VerifyOptions) -> int:
    """Compare, print and return the exit code.

    Raises:
        ProofError: the models differ.
    """
    facts = tell(lambda: _compare(options), as_json=options.json)
    if not facts.proof.holds:
        raise ProofError(
            f"The models differ: {facts.proof.problem or f'off by {facts.proof.relative:.1e} of the largest value'}, "
            f"allowed is {facts.proof.tolerance:.0e}."
        )
    return 0


def _compare(options: VerifyOptions) -> Comparison:
    from torchthin.graph.inputs import as_inputs, refreshed
    from torchthin.io.checkpoints import read_checkpoint
    from torchthin.selection.masks import apply_masks_
    from torchthin.thinning.proof import joined, verify

    inputs = as_inputs(needed_inputs(options))
    model = loaded(options, options.device)
    right = loaded(
        _Against(
            options.against or options.model_factory,
            options.against_args if options.against is not None else options.factory_args,
            options.against_checkpoint,
        ),
        options.device,
    )
    inexact: tuple[str, ...] = ()
    if options.masked:
        checkpoint = read_checkpoint(options.checkpoint or "")
        if not checkpoint.masks:
            raise ConfigError(f"The checkpoint {options.checkpoint} holds no masks. Leave --masked out.")
        apply_masks_(right, checkpoint.masks)
        report = (checkpoint.torchthin or {}).get("report") or {}
        inexact = tuple(map(str, report.get("inexact") or ()))
    given = [inputs, *(refreshed(inputs, seed) for seed in range(1, options.runs))]
    proof = joined([verify(right, model, each) for each in given])
    if options.tolerance is not None:
        proof = replace(proof, tolerance=options.tolerance)
    return Comparison(proof, options.runs, inexact)

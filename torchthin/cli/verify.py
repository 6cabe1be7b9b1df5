"""``torchthin verify``: do two models compute the same?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import printing
from torchthin.cli.flags_from_fields import Command, json_option, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import option
from torchthin.errors import ConfigError, ProofError

if TYPE_CHECKING:
    from torchthin.graph.inputs import Inputs
    from torchthin.thinning.proof.verdict import Proof

RUNS = 3


@dataclass(frozen=True)
class ReferenceArgs:
    """The model that says what is right."""

    against: str | None = option(
        None, "--against", "function that returns it (default: the same)", "MODULE:FUNCTION"
    )
    against_args: Mapping[str, Any] | None = option(
        None, "--against-args", "keyword arguments of that function", "JSON"
    )
    against_checkpoint: str | None = option(None, "--against-checkpoint", "its weights", "FILE")
    masked: bool = option(
        False,
        "--masked",
        "put the masks of --checkpoint on it first: a pruned checkpoint against its dense model",
    )


@dataclass(frozen=True)
class ComparisonArgs:
    """How the models are compared."""

    runs: int = option(RUNS, "--runs", f"the example and N - 1 fresh random inputs (default: {RUNS})", "N")
    tolerance: float | None = option(
        None,
        "--tolerance",
        "of each output's largest value (default: 1e-6 in float64, 1e-3 in float32, for large models)",
        "SHARE",
    )

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ConfigError(f"The --runs must be at least 1. Got {self.runs}.")
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise ConfigError(f"The --tolerance must be in [0, 1). Got {self.tolerance}.")


@dataclass(frozen=True)
class VerifyOptions:
    """All options of a comparison."""

    model: PositionalModelArgs = part("model")
    reference: ReferenceArgs = part("the model that says what is right")
    comparison: ComparisonArgs = part("comparison")
    json: bool = json_option()

    def __post_init__(self) -> None:
        other = self.reference
        if other.against is None and other.against_checkpoint is None:
            raise ConfigError("A second model is needed. Give --against-checkpoint FILE, --against, or both.")
        if other.masked and self.model.checkpoint is None:
            raise ConfigError("The --masked needs the masks of a pruned file. Give it as --checkpoint FILE.")


@dataclass(frozen=True)
class Verification:
    """The proof, per output and run."""

    proof: Proof
    runs: int
    measured: float | None = None
    """How far an approximate checkpoint was from its masked model when it was made."""
    refitted: int = 0
    """Layers of a checkpoint that got new weights after thinning, so that it cannot equal its masked model."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {**self.proof.to_dict(), "runs": self.runs, "measured_when_made": self.measured}

    def __str__(self) -> str:
        each = max(1, len(self.proof.outputs) // self.runs)
        lines = [
            f"run {1 + number // each}, output {item.output} {tuple(item.shape)}: off by {item.max_error:.1e}, "
            f"{item.relative:.1e} of its largest value"
            for number, item in enumerate(self.proof.outputs)
        ]
        return "\n".join([*lines, f"{self._sentence()}; allowed is {self.proof.tolerance:.0e}."])

    def _sentence(self) -> str:
        proof = self.proof
        if proof.verdict != "approximate":
            return str(proof)
        return (
            f"approximate: off by {proof.relative_to_masked:.1e} of the largest value from the masked model, "
            f"{self.measured or 0:.1e} when the file was made, because of {'; '.join(proof.inexact)}"
        )


def _verify(options: VerifyOptions) -> Verification:
    from torchthin.graph.inputs import as_inputs, refreshed
    from torchthin.thinning.proof.verdict import joined, verify

    runs, tolerance = options.comparison.runs, options.comparison.tolerance
    model, example = options.model.load()
    inputs = as_inputs(example)
    reference, made = _reference(options, inputs)
    given = [inputs, *(refreshed(inputs, seed) for seed in range(1, runs))]
    proof = joined([verify(reference, model, each) for each in given])
    inexact, measured = _departures(made)
    if tolerance is None and measured is not None:  # other numbers are off by more or less
        tolerance = max(proof.tolerance, 2 * measured)
    if tolerance is not None:
        proof = replace(proof, tolerance=tolerance)
    recovery = made.get("recovery")
    refitted = recovery.get("refitted") if isinstance(recovery, dict) else 0
    return Verification(
        replace(proof, inexact=inexact), runs, measured, refitted if isinstance(refitted, int) else 0
    )


def _departures(report: Mapping[str, Any]) -> tuple[tuple[str, ...], float | None]:
    """Return where a checkpoint's own report says that it cannot equal its masked model, and by how much it was off."""
    inexact, proof = report.get("inexact"), report.get("proof")
    causes = tuple(item for item in inexact if isinstance(item, str)) if isinstance(inexact, list) else ()
    measured = proof.get("relative_to_masked") if isinstance(proof, dict) else None
    return causes, measured if causes and isinstance(measured, float) else None


def _reference(options: VerifyOptions, inputs: Inputs) -> tuple[Any, Mapping[str, Any]]:
    """Return the model that says what is right, and the checkpoint's own report where it is to equal its masked model.

    Of a checkpoint with fewer layers, that is the dense model with masks whose other layers hand on what they are given.
    """
    from torchthin.io.checkpoints import read_checkpoint
    from torchthin.pruning.layers import past_layers
    from torchthin.pruning.save_and_load import stored_recipe
    from torchthin.selection.masks import apply_masks_
    from torchthin.thinning.layer_names import name_before

    other, own = options.reference, options.model
    source = replace(own, model=None, checkpoint=other.against_checkpoint)
    if other.against is not None:
        source = replace(source, model_factory=other.against, factory_args=other.against_args)
    reference, _ = source.load()
    if not other.masked:
        return reference, {}
    checkpoint = read_checkpoint(own.checkpoint or "")
    recipe = stored_recipe(checkpoint)
    layers = {} if recipe is None else recipe.layers
    if not checkpoint.masks and not layers:
        raise ConfigError(f"The checkpoint {own.checkpoint} holds no masks. Leave --masked out.")
    apply_masks_(reference, {name_before(name, layers): mask for name, mask in checkpoint.masks.items()})
    if recipe is not None and layers:
        reference = past_layers(reference, recipe, inputs)
    report = (checkpoint.torchthin or {}).get("report")
    return reference, report if isinstance(report, dict) else {}


def _refuse_difference(found: Verification) -> None:
    proof = found.proof
    if proof.holds:
        return
    unmeasured = proof.inexact and found.measured is None
    more = (
        f" They must differ ({'; '.join(proof.inexact[:3])}), and with --proof off nobody measured by how much when the file was "
        "made: see what your data say, or give --tolerance."
    )
    recovered = (
        f" {found.refitted} layers of the file were refitted after thinning, so it computes something else than its masked "
        "model on purpose: verify a file of --no-recover, or score this one."
    )
    more = recovered if found.refitted else more if unmeasured else ""
    raise ProofError(
        f"The models differ: {proof.problem or f'off by {proof.relative:.1e} of the largest value'}, "
        f"allowed is {proof.tolerance:.0e}.{more}"
    )


COMMAND = Command.of(
    "Run two models on the same inputs and compare every output; exit code 3 when they differ.",
    """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --against-checkpoint masked.pth --input-shape 1,3,128,128
  %(prog)s models/net.py:small --checkpoint thin.pth --against-checkpoint best.pth --masked \\
      --input-shape 1,3,128,128
""",
    VerifyOptions,
    printing(_verify, _refuse_difference),
)

"""``torchthin inspect``: what of a model can be pruned, and what is in the way of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchthin.cli.console import Console, printing
from torchthin.cli.flags_from_fields import Command, json_option, like, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import PruneConfig
from torchthin.errors import TargetMissedError

if TYPE_CHECKING:
    from torchthin.report.inspection import Inspection


@dataclass(frozen=True)
class InspectOptions:
    """All options of an inspection."""

    model: PositionalModelArgs = part("model")
    proof: str = like(PruneConfig, "proof")
    json: bool = json_option()


def _inspect(options: InspectOptions) -> Inspection:
    from torchthin.pruning.inspection import inspect

    model, inputs = options.model.load(Console())
    return inspect(model, inputs, proof=options.proof)


def _refuse_unprunable(facts: Inspection) -> None:
    """Say what is in the way, most filters first."""
    if facts.prunable:
        return
    worst = sorted(facts.frozen, key=lambda item: -item.channels)[:2]
    why = [f"{item.weight}: {item.channels} filters are kept, {item.reason}." for item in worst] or [
        "No convolution or linear layer makes channels that another layer takes."
    ]
    raise TargetMissedError(f"Nothing of the model can be pruned. {' '.join(why)}")


COMMAND = Command.of(
    "Show what of a model can be pruned, in which groups, and what is in the way of the rest.",
    """\
example:
  %(prog)s --model-factory models/net.py:small --input-shape 1,3,128,128
""",
    InspectOptions,
    printing(_inspect, _refuse_unprunable),
)

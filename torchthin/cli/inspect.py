"""``torchthin inspect``: what of a model can be pruned, and what is in the way of the rest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Parser
from torchthin.cli.flags import flags_with_model, followed_inputs, talk_aside
from torchthin.cli.options import add_model_arguments
from torchthin.errors import TargetMissedError

if TYPE_CHECKING:
    from torchthin.report.inspection import Inspection

DESCRIPTION = "Show what of a model can be pruned, in which groups, and what is in the way of the rest."
EXAMPLE = """\
example:
  %(prog)s --model-factory models/net.py:small --input-shape 1,3,128,128
"""


@dataclass(frozen=True)
class InspectOptions:
    """All an inspection is told."""

    model_factory: str
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    json: bool = False
    proof: bool = True


def add_inspect_arguments(parser: Parser) -> None:
    """Add the flags of ``inspect`` to `parser`."""
    add_model_arguments(parser)
    looking = parser.add_argument_group("inspection")
    looking.add_argument(
        "--no-proof",
        dest="proof",
        action="store_false",
        help="skip the trial cut: faster, but groups may be shown that turn out not to go",
    )
    looking.add_argument("--json", action="store_true", help="facts as JSON on stdout, all else on stderr")
    looking.add_argument("--debug", action="store_true", help="show the traceback of an error")


def inspect_options(namespace: argparse.Namespace) -> InspectOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory is missing.
    """
    return InspectOptions(**flags_with_model(namespace))


def run(options: InspectOptions) -> int:
    """Inspect, print and return the exit code. With ``--json``, stdout gets nothing but the JSON.

    Raises:
        TargetMissedError: nothing of the model can be pruned.
    """
    with talk_aside(options.json):
        facts = _inspect(options)
        if not options.json:
            print(facts)
    if options.json:
        print(json.dumps(facts.to_dict(), indent=2))
    if not facts.prunable:
        raise TargetMissedError(f"Nothing of the model can be pruned. {_why(facts)}")
    return 0


def _inspect(options: InspectOptions) -> Inspection:
    from torchthin.cli.inputs import placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice
    from torchthin.pruning.inspection import inspect

    inputs = followed_inputs(options)
    model, _ = load_model(options, Voice())
    return inspect(placed(model, usable_device(options.device)), inputs, prove=options.proof)


def _why(facts: Inspection) -> str:
    """Say what is in the way, most filters first."""
    if not facts.frozen:
        return "No convolution or linear layer makes channels that another layer takes."
    worst = sorted(facts.frozen, key=lambda item: -item.channels)[:2]
    return " ".join(f"{item.weight}: {item.channels} filters stay, {item.reason}." for item in worst)

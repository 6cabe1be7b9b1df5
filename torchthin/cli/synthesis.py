"""``torchthin synthesis``: the files that ADI's quantize.py and ai8xize.py read, of a model as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.chip import ChipArgs
from torchthin.cli.console import Console, printing
from torchthin.cli.data_args import data_option
from torchthin.cli.flags_from_fields import Command, json_option, like, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.cli.prune_options import OutputFiles, SynthesisArgs
from torchthin.config import Pixels, option
from torchthin.errors import ConfigError
from torchthin.max7800x.chips import chip_named, list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torchthin.io.calibration import Calibration
    from torchthin.max7800x.synthesis.files import Synthesis


@dataclass(frozen=True)
class SynthesisChip(ChipArgs):
    """Which chip."""

    chip: str | None = like(Chip, "name", help=f"one of {', '.join(list_chips())} (default: MAX78000)")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "chip", chip_named(str(self.chip)).name)


@dataclass(frozen=True)
class SynthesisOutput:
    """What is written, and where."""

    save_to: str | None = like(SynthesisArgs, "synthesis_to", flag="--save-to")
    name: str | None = option(None, "--name", "of the files (default: the arch)", "NAME")
    arch: str | None = like(
        OutputFiles,
        "arch",
        help="name of the network in the files (default: the checkpoint's, or the description's, or the class's)",
    )
    synthesis_yaml: str | None = like(SynthesisArgs, "synthesis_yaml")
    data: str | None = data_option(
        "the sample input, which is the first of them, and for --weight-bits auto", "random numbers"
    )
    pixels: Pixels = part("output")

    def __post_init__(self) -> None:
        if self.save_to is None:
            raise ConfigError("A folder to write to is needed. Give --save-to FOLDER.")


@dataclass(frozen=True)
class SynthesisOptions:
    """All options of the command."""

    model: PositionalModelArgs = part("model")
    chip: SynthesisChip = part("chip")
    output: SynthesisOutput = part("output")
    json: bool = json_option()


def _write(options: SynthesisOptions) -> Synthesis:
    """Check everything, write last."""
    import torch

    from torchthin.io.calibration import picked
    from torchthin.max7800x.synthesis.files import files_of, ready_for_synthesis
    from torchthin.max7800x.synthesis.user_description import read_description

    how = options.output
    folder = str(how.save_to)
    files_of(folder, how.name or how.arch or "network")
    if how.synthesis_yaml is not None:
        read_description(how.synthesis_yaml)
    inputs: Any = options.model.inputs()
    if inputs is None:
        raise ConfigError(
            "The files for synthesis need the input's size. Give --input-shape 1,3,128,128 or --dataset."
        )
    model, checkpoint = options.model.load_model(Console(quiet=options.model.checkpoint is None))
    data = None if how.data is None else _data(how.data, inputs, how.pixels)
    chip = str(options.chip.chip)
    bits, chosen = options.chip.bits(chip, model, inputs, data)
    ready = ready_for_synthesis(
        model,
        inputs if data is None else picked(data.joined(), torch.arange(1)),
        folder,
        chip=chip,
        name=how.name,
        arch=how.arch or (checkpoint.arch if checkpoint else None),
        dataset=options.model.dataset,
        epoch=checkpoint.epoch if checkpoint else 0,
        extras=checkpoint.extras if checkpoint else None,
        weight_bits=bits,
        description=how.synthesis_yaml,
    )
    if chosen is not None:
        ready = replace(ready, network=replace(ready.network, notes=(*ready.network.notes, str(chosen))))
    ready.write()
    return ready


def _data(source: str, inputs: Any, pixels: Pixels) -> Calibration:
    from torchthin.graph.inputs import as_inputs
    from torchthin.io.calibration import calibration
    from torchthin.max7800x.bits import SAMPLES

    return calibration(source, like=as_inputs(inputs), max_samples=SAMPLES, pixels=pixels)


COMMAND = Command.of(
    "Write a (thinned) model's checkpoint, network description and sample input for ai8x-synthesis, checked and compared.",
    """\
example:
  %(prog)s models/net.py:small --checkpoint thin.pth --chip MAX78000 --input-shape 1,3,64,64 --save-to synthesis
""",
    SynthesisOptions,
    printing(_write),
)

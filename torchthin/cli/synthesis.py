"""What ``--synthesis-to`` writes: the result as files for ADI's ai8x-synthesis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torchthin.cli.options import PruneOptions
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.max7800x.synthesis import Synthesis
    from torchthin.pruning.result import PruneResult

DEFAULT_CHIP = "MAX78000"


def check_synthesis(options: PruneOptions) -> None:
    """Raise before anything runs when what is needed for synthesis is not there, or a file cannot be written."""
    if options.synthesis_to is None:
        for flag in ("synthesis_yaml", "synthesis_chip"):
            if getattr(options, flag) is not None:
                raise ConfigError(
                    f"The --{flag.replace('_', '-')} needs --synthesis-to FOLDER, where to write."
                )
        return
    from torchthin.max7800x.chips import chip_named
    from torchthin.max7800x.synthesis.files import files_of
    from torchthin.max7800x.synthesis.user_description import read_description

    if not options.input_shape and options.dataset is None:
        raise ConfigError(
            "The --synthesis-to needs the input's size. Give --input-shape 1,3,128,128 or --dataset."
        )
    chip_named(chip_of(options))
    files_of(options.synthesis_to, _name(options, "network"))
    if options.synthesis_yaml is not None:
        read_description(options.synthesis_yaml)


def chip_of(options: PruneOptions) -> str:
    """Return the chip that is asked for."""
    return options.synthesis_chip or getattr(options.prune.target, "name", None) or DEFAULT_CHIP


def ready(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any
) -> Synthesis | None:
    """Return the files, checked and not yet written; None when none were asked for."""
    if options.synthesis_to is None:
        return None
    from torchthin.max7800x.synthesis import ready_for_synthesis

    arch = options.arch or (checkpoint.arch if checkpoint else None)
    return ready_for_synthesis(
        result.model,
        inputs,
        options.synthesis_to,
        chip=chip_of(options),
        name=_name(options, arch or type(result.model).__name__.lower()),
        arch=arch,
        dataset=options.dataset,
        epoch=checkpoint.epoch if checkpoint else 0,
        extras=checkpoint.extras if checkpoint else None,
        description=options.synthesis_yaml,
    )


def _name(options: PruneOptions, otherwise: str) -> str:
    """Return the name of the files: that of the saved one, where there is one."""
    return Path(options.save_to).name.split(".")[0] if options.save_to is not None else otherwise

"""`save_for_synthesis`: a checkpoint and a network description that ADI's quantize.py and ai8xize.py read as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from torchthin.errors import CheckpointError, InputError, one_line
from torchthin.io.atomic import check_destination, write_whole
from torchthin.io.checkpoints import write_torch
from torchthin.max7800x.cost.layer import WeightBits
from torchthin.max7800x.synthesis.description import description_text
from torchthin.max7800x.synthesis.layout import Layout
from torchthin.max7800x.synthesis.network import ChipNetwork, chip_network
from torchthin.max7800x.synthesis.user_description import corrected_text, read_description
from torchthin.report.record import version

DATASET = "sample"
"""Where no data set is named: ai8xize.py then needs ``--sample-input``."""


@dataclass(frozen=True)
class SynthesisFiles:
    """What was written, all or nothing."""

    checkpoint: Path
    """``<name>_synthesis.pth.tar``, for quantize.py."""
    description: Path
    """``<name>.yaml``, for ai8xize.py."""
    sample: Path
    """``<name>_sample.npy``: the example input as the chip takes it, folded and in whole numbers, for ``--sample-input``."""

    def paths(self) -> tuple[Path, ...]:
        """Return the three of them."""
        return self.checkpoint, self.description, self.sample


@dataclass(frozen=True)
class Synthesis:
    """Files that are ready to be written: everything was checked and compared with the model."""

    files: SynthesisFiles
    network: ChipNetwork
    text: str
    """Of the description."""
    changes: tuple[str, ...]
    """What the corrected copy of a description says differently, one line each."""
    contents: Mapping[str, Any]
    """Of the checkpoint."""

    def write(self) -> SynthesisFiles:
        """Write the files, all or none.

        Raises:
            CheckpointError: one cannot be written; what was there before is untouched.
        """
        levels = (self.network.sample[0] * 128 + 0.5).floor().clamp(-128, 127).long().numpy()
        writers: dict[Path, Callable[[], object]] = {
            self.files.checkpoint: lambda: write_torch(self.files.checkpoint, self.contents),
            self.files.description: lambda: write_whole(
                self.files.description, lambda file: file.write_text(self.text, encoding="utf-8")
            ),
            self.files.sample: lambda: write_whole(self.files.sample, lambda file: _save(file, levels)),
        }
        _write_all(writers)
        return self.files

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        network, files = self.network, self.files
        return {
            "chip": network.chip.name,
            "arch": self.contents["arch"],
            "checkpoint": str(files.checkpoint),
            "description": str(files.description),
            "sample": str(files.sample),
            "compared": network.compared,
            "max_error": network.max_error,
            "changes": list(self.changes),
            "notes": list(network.notes),
            "cost": network.report.to_dict(),
        }

    def __str__(self) -> str:
        network, files = self.network, self.files
        lines = [
            f"For ai8x-synthesis ({network.chip.name}): {files.checkpoint}, {files.description.name} and {files.sample.name}. "
            f"{network.compared} layers as written were compared with the model: off by at most {network.max_error:.1e} of a "
            "layer's largest value.",
            *(f"Corrected: {change}." for change in self.changes),
            *(f"Note: {note}" for note in network.notes),
        ]
        return "\n".join(lines)


def save_for_synthesis(
    model: nn.Module, example_inputs: Any, folder: str | Path, **options: Any
) -> SynthesisFiles:
    """Write a checkpoint, a network description and a sample input for ADI's quantize.py and ai8xize.py, all or none.

    The options are those of `ready_for_synthesis`, which also says what is raised.
    """
    return ready_for_synthesis(model, example_inputs, folder, **options).write()


def ready_for_synthesis(
    model: nn.Module,
    example_inputs: Any,
    folder: str | Path,
    *,
    chip: str = "MAX78000",
    name: str | None = None,
    arch: str | None = None,
    dataset: str | None = None,
    epoch: int = 0,
    extras: Mapping[str, Any] | None = None,
    weight_bits: WeightBits = 8,
    description: str | Path | None = None,
) -> Synthesis:
    """Check everything, run the layers as they are written, compare them with the model, and return what can be written.

    The checkpoint holds the weights of the layers in the order in which the chip runs them, BatchNorm folded, and no classes.

    Args:
        model: thinned, or any other, of ai8x layers or plain ones; it is left as it is.
        example_inputs: one example (N, C, H, W) or (N, C, L).
        folder: where to write; made when it is missing.
        chip: MAX78000 or MAX78002.
        name: of the files; without it `arch`.
        arch: name of the network in both files; without it the description's, else the class's in small letters.
        dataset: name of the data set in the description.
        epoch: of the source.
        extras: further entries of the checkpoint, plain types and tensors.
        weight_bits: 1, 2, 4 or 8, of layers that do not say it themselves, or module path -> bits.
        description: a network description of the user's; a corrected copy is written instead of a new one.

    Raises:
        InputError: something does not run on the chip, or the description does not match; the layer is named.
        TargetMissedError: the network does not fit the chip.
        ProofError: the layers as written compute something else than the model.
        CheckpointError: no file can be written in `folder`.
    """
    given = read_description(description) if description is not None else {}
    arch = _arch(arch, given.get("arch"), model)
    files = files_of(folder, name or arch)
    layout = Layout.of_description(given.get("layers", ()), str(description))
    network = chip_network(model, example_inputs, chip, weight_bits, layout)
    text, changes = _text(network, arch, dataset, description)
    contents = {
        "epoch": int(epoch),
        "arch": arch,
        "state_dict": network.state,
        "extras": dict(extras or {}),
    }
    return Synthesis(files, network, text, changes, contents)


def files_of(folder: str | Path, name: str) -> SynthesisFiles:
    """Return where the files of `name` go.

    Raises:
        CheckpointError: no file can be written there.
    """
    endings = ("_synthesis.pth.tar", ".yaml", "_sample.npy")
    found = SynthesisFiles(*(Path(folder) / f"{name}{ending}" for ending in endings))
    for path in found.paths():
        check_destination(path)
    return found


def _arch(asked: str | None, stated: Any, model: nn.Module) -> str:
    if asked is not None and stated is not None and asked.lower() != str(stated).lower():
        raise InputError(
            f"The arch of the description must be that of the checkpoint. Got {stated} and {asked}; ai8xize.py compares them."
        )
    found = str(stated) if stated is not None else asked or type(model).__name__.lower()
    if not found or not found.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise InputError(
            f"The arch must be a name of letters, digits, - and _. Got {found!r}; give another one."
        )
    return found


def _text(
    network: ChipNetwork, arch: str, dataset: str | None, description: str | Path | None
) -> tuple[str, tuple[str, ...]]:
    if description is not None:
        return corrected_text(description, network)
    cost = network.report.cost
    shape = "x".join(map(str, network.sample.shape[1:]))
    remarks = [
        f"Written by torchthin {version()} for {network.chip.name}, input {shape}.",
        f"{cost.deepest_words} of {cost.kernel_capacity} kernel words in the deepest processor, {cost.cycles} cycles"
        f"{'' if cost.cycles_exact else ' (a guide)'}.",
        *(line for note in network.notes for line in textwrap.wrap(note, 96)),
    ]
    head = {"arch": arch, "dataset": dataset or DATASET}
    return description_text(network.mapping.layers, network.entries, head, remarks), ()


def _save(path: Path, array: Any) -> None:
    with path.open("wb") as file:  # numpy adds an ending to a name
        np.save(file, array)


def _write_all(writers: Mapping[Path, Callable[[], object]]) -> None:
    """Write every file; where one fails, restore all files that were there before."""
    before = {path: path.read_bytes() if path.exists() else None for path in writers}
    written: list[Path] = []
    try:
        for path, write in writers.items():
            write()
            written.append(path)
    except (OSError, CheckpointError) as error:
        for path in written:
            _restore(path, before[path])
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The files for synthesis could not be written: {error.strerror or one_line(error)}. Nothing was changed; free "
            "some space or choose another place."
        ) from error


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        write_whole(path, lambda file: file.write_bytes(content))

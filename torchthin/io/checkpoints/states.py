"""Torch files that are no checkpoints of weights: states of runs to go on with, calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints.atomic import write_whole
from torchthin.io.checkpoints.checksums import load_checked
from torchthin.io.checkpoints.read import damage, refuse_unreadable
from torchthin.io.checkpoints.write import failure


def read_saved(path: Path, what: str, cure: str) -> Any:
    """Return the plain types and tensors in a torch file; nothing in it is run, and its checksums hold.

    Args:
        path: of the file.
        what: names it in an error, as "state".
        cure: the end of an error: what to do.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than plain types and tensors.
    """
    refuse_unreadable(path, what, cure)
    try:
        return load_checked(path)
    except Exception as error:  # damage can raise anything, anywhere in torch or zipfile
        raise CheckpointError(f"The {what} {path} cannot be read: {damage(error)}. {cure}") from error


def read_state(path: Path, what: str, keys: tuple[str, ...], cure: str) -> dict[str, Any]:
    """Return what `read_saved` does, which must be a dict with these keys.

    Raises:
        CheckpointError: it is something else.
    """
    content = read_saved(path, what, cure)
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise CheckpointError(
            f"The {what} {path} must hold {', '.join(keys)}. It holds something else. {cure}"
        )
    return content


def write_state(path: Path, what: str, content: Mapping[str, Any]) -> None:
    """Write a dict of plain types and tensors, whole or not at all; `what` names the file in an error.

    Raises:
        CheckpointError: the file cannot be written; what stood there is untouched.
    """

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # through Python's file, so that the reason of a failure is kept
            torch.save(dict(content), file)

    try:
        write_whole(path, save)
    except Exception as error:  # torch has exceptions of its own
        raise CheckpointError(
            f"The {what} {path} could not be written: {failure(error)}. Free some space or choose another place."
        ) from error

"""The files of a folder: where it may be written, and what goes over from the folder that the model came from."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from torchthin.errors import CheckpointError
from torchthin.io.atomic import flush_to_disk, reason
from torchthin.io.temporary import own_folder, resumed_folder

RECIPE = "torchthin_recipe.json"
"""What leads from the full-size class to the model, in a folder that `from_pretrained` of this package reads."""
CARD = "README.md"

_COPIED = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe", ".py"})
"""Endings of files of tokenizers and processors, and of code that a configuration names."""
_LARGEST = 256 * 2**20
_OWN = frozenset({"config.json", "generation_config.json", RECIPE, CARD})
"""Files that are written anew."""


def check_folder(folder: str | Path) -> Path:
    """Return where the folder is to be; nothing is made.

    Raises:
        CheckpointError: there is a file, a folder with files in it, or no place that can be written to.
    """
    target = Path(os.path.realpath(folder))
    if target.is_dir() and next(target.iterdir(), None) is not None:
        raise CheckpointError(
            f"The folder to save must be new or empty. {folder} has files; choose another name."
        )
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"The folder to save must not be a file. {folder} is one; choose another name.")
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CheckpointError(
            f"The folder to save must be in a folder that can be written to. {parent} is not; choose another place."
        )
    return target


def write_folder(target: Path, write: Callable[[Path], object], contents: str | None = None) -> None:
    """Call `write` with a new folder that then becomes `target`; where it raises, nothing is left.

    Args:
        target: as `check_folder` returned it.
        write: fills the folder.
        contents: another text for other contents. A writer of the same that was interrupted is continued: the folder has
            what it had when the process ended.

    Raises:
        CheckpointError: the system refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with own_folder(target) if contents is None else resumed_folder(target, contents) as hidden:
            made = hidden / target.name
            made.mkdir(exist_ok=True)
            write(made)
            (made / CARD).touch()
            mode = stat.S_IMODE(
                (made / CARD).stat().st_mode
            )  # safetensors makes files only their owner can read
            for path in made.rglob("*"):
                if path.is_file():
                    path.chmod(mode)
                flush_to_disk(path)
            if target.exists():
                target.rmdir()  # it is empty: see `check_folder`
            made.replace(target)
    except OSError as error:
        raise CheckpointError(f"The folder {target} cannot be written: {reason(error)}.") from error


def clear_but(folder: Path, kept: Container[str]) -> None:
    """Remove all files and folders but those of these names."""
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_rest(model: Any, folder: Path) -> None:
    """Copy the files of tokenizer and processor, where the model came from a folder of this machine."""
    name = getattr(model.config, "name_or_path", "") or getattr(model, "name_or_path", "")
    source = Path(name) if name else None
    if source is None or not source.is_dir():
        return
    for path in sorted(source.iterdir()):
        wanted = path.suffix in _COPIED and path.name not in _OWN and not path.name.endswith(".index.json")
        if (
            wanted
            and path.is_file()
            and path.stat().st_size <= _LARGEST
            and not (folder / path.name).exists()
        ):
            shutil.copyfile(path, folder / path.name)

"""Weights in several safetensors files: a folder as Hugging Face writes it, its index, or a list of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torchthin.config.files import parse_json, read_text
from torchthin.errors import CheckpointError

_INDEX = ".safetensors.index.json"
LARGE = 2**30
"""Bytes of safetensors from which on the command line maps weights instead of copying them."""


def safetensors_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a folder or an index stands for; none for any other path.

    Raises:
        CheckpointError: a folder without such files, an index that cannot be read, or one whose files are not beside it.
    """
    if path.is_dir():
        for name in (f"model{_INDEX}", "model.safetensors"):
            if (path / name).is_file():
                return safetensors_files(path / name) or (path / name,)
        raise CheckpointError(
            f"The checkpoint {path} must be a file. It is a directory, and has no model{_INDEX} and no model.safetensors; "
            "name a file in it."
        )
    return _named_by(path) if path.name.endswith(_INDEX) and path.is_file() else ()


def _named_by(index: Path) -> tuple[Path, ...]:
    try:
        names = list(dict.fromkeys(parse_json(read_text(index))["weight_map"].values()))
        foreign = [name for name in names if Path(name).name != name]
        missing = foreign or [name for name in names if not (index.parent / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The index {index} is damaged or no index of safetensors files. Download it again, or name the files."
        ) from error
    if missing or not names:
        raise CheckpointError(
            f"The index {index} must name files beside it. Not there: {', '.join(missing[:3]) or 'any'}"
            f"{', ...' if len(missing) > 3 else ''}. Download them too."
        )
    return tuple(index.parent / name for name in names)


def are_large(path: str | Path) -> bool:
    """Whether `path` stands for safetensors files of at least `LARGE` bytes."""
    path = Path(path)
    found = safetensors_files(path) or ((path,) if path.suffix == ".safetensors" and path.is_file() else ())
    return sum(file.stat().st_size for file in found) >= LARGE


def refuse_repeats(states: Sequence[dict[str, object]], paths: Sequence[Path]) -> None:
    """Raise CheckpointError where two files hold tensors of one name."""
    twice = [name for name, count in Counter(name for state in states for name in state).items() if count > 1]
    if twice:
        holders = [path.name for path, state in zip(paths, states, strict=True) if twice[0] in state]
        raise CheckpointError(
            f"Each tensor must be in one file. {twice[0]} is in {', '.join(holders)}; give the files of one model."
        )

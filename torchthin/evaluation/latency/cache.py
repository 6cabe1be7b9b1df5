"""The file of measured layer times: one JSON for all machines, each with its own times."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchthin.config.files import parse_json, read_text
from torchthin.errors import ConfigError
from torchthin.evaluation.bench.latency import processor
from torchthin.io.atomic import reason, write_whole

_FORMAT = "torchthin layer times 1"
_LONGEST = 1e18
"""Nanoseconds, 31 years."""
Known = dict[str, float]
"""Key of a layer at some widths -> nanoseconds."""


def machine(device: torch.device, dtype: torch.dtype) -> str:
    """Return the name of all that a time depends on besides the layer."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{processor()}, {torch.get_num_threads()} threads"
    return f"{device.type}: {where}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}"


def default_path() -> Path | None:
    """Return the file in the user's cache directory; None where the user has none."""
    try:
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # there is no home
        return None
    return Path(folder) / "torchthin" / "layer-times.json"


class LatencyCache:
    """The times of one machine, and the file that keeps them with those of others."""

    def __init__(self, path: str | Path | None, machine: str) -> None:
        """Read the file.

        Args:
            path: None: that of the user's cache directory, or no file where there is none that can be opened.
            machine: see `machine`; times of other machines are left as they are.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        self._path = default_path() if path is None else _expanded(path)
        self._is_own = path is None
        self._machine = machine
        self.known: Known = dict(self._read().get(machine, {}))
        self.failed: set[str] = set()
        """Keys of what could not be run; not in the file."""

    def _read(self) -> dict[str, Known]:
        if self._path is None:
            return {}
        try:
            text = read_text(self._path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            if self._is_own:
                return {}
            raise self._unusable(error.strerror or str(error) or "it cannot be opened") from error
        except UnicodeDecodeError as error:
            raise self._damaged(error) from error
        except ValueError as error:  # no name of a file, such as one with a zero byte
            raise self._unusable(str(error)) from error
        try:
            return _checked(parse_json(text))
        except ValueError as error:
            raise self._damaged(error) from error

    def _unusable(self, why: str, hint: str = "Name another one") -> ConfigError:
        name = str(self._path)
        name = name if name.isprintable() else repr(name)  # one line, whatever is in it
        return ConfigError(
            f"The file of layer times {name} cannot be used: {' '.join(why.split())[:100]}. {hint} with "
            "latency_cache (--latency-cache)."
        )

    def _damaged(self, error: ValueError) -> ConfigError:
        return self._unusable(str(error), "Delete it, or name another one")

    def save(self) -> None:
        """Write all times, with those that other machines or runs have written since.

        Raises:
            ConfigError: a file that the user named cannot be written. In the cache directory times are kept if they can be.
        """
        if self._path is None:
            return
        path = self._path
        with contextlib.suppress(OSError) if self._is_own else contextlib.nullcontext():
            others = self._read()
            times = {**others, self._machine: {**others.get(self._machine, {}), **self.known}}
            text = json.dumps({"format": _FORMAT, "machines": times}, indent=0, sort_keys=True)
            try:
                write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
            except OSError as error:
                if self._is_own:
                    raise
                raise self._unusable(reason(error)) from error


def _expanded(path: str | Path) -> Path:
    """Return a path with `~` as the user's home, where there is one."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def _checked(content: Any) -> dict[str, Known]:
    """Return machine -> times out of what a file says.

    Raises:
        ValueError: it says something else.
    """
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError("it is no file of layer times")
    machines = content.get("machines")
    if not isinstance(machines, dict) or not all(_are_times(times) for times in machines.values()):
        raise ValueError("its times are damaged")
    return machines


def _are_times(times: object) -> bool:
    return isinstance(times, Mapping) and all(
        isinstance(time, int | float) and not isinstance(time, bool) and 0 <= time <= _LONGEST
        for time in times.values()
    )

"""Every exception the package raises on purpose.

    TorchthinError
    ├── InputError (also ValueError)      what the caller gave cannot be used; exit code 2
    │   ├── ConfigError                   an argument or a configuration value
    │   ├── FactoryError                  the model factory
    │   ├── BudgetError                   a budget below what the model needs at least
    │   ├── CheckpointError               a checkpoint file: missing, unsafe, damaged, not fitting
    │   └── WeightNameError               a weight name that does not exist or cannot be pruned
    ├── TargetMissedError                 the target cannot be reached; exit code 3
    ├── TrainingError                     the user's training function raised; exit code 1
    └── ProofError                        thinned and masked model disagree, or the thinned one does not run; exit code 3

A message is one line: what, where, what was allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TorchthinError(Exception):
    """Base of all errors of this package. The message is one line, also where it quotes a name that has line breaks."""

    exit_code = 1

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class InputError(TorchthinError, ValueError):
    """The caller's input cannot be used; nothing was changed or written."""

    exit_code = 2


class ConfigError(InputError):
    """An argument or configuration value is out of range, of the wrong type or unknown."""


class FactoryError(InputError):
    """The model factory cannot be imported, called, or returns no module."""


class BudgetError(InputError):
    """A budget is below what the model needs at least; the message says how much that is."""


class KindError(InputError):
    """Channels were asked for by a kind that the model has none of; the message lists those that it has."""


class CheckpointError(InputError):
    """A checkpoint file is missing, unsafe, damaged, or does not fit the model."""


class WeightNameError(InputError):
    """A weight name does not exist in the model or cannot be pruned."""


class TargetMissedError(TorchthinError):
    """The target cannot be reached on this model; the message says what is in the way."""

    exit_code = 3


class TrainingError(TorchthinError):
    """The user's training function raised; what was reached before is saved."""


class ProofError(TorchthinError):
    """The thinned model does not run or does not compute what the masked model computes."""

    exit_code = 3


def one_line(error: BaseException) -> str:
    """Return the name and the words of a foreign exception as one line of at most 300 characters without a full stop."""
    words = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'a' or 'b'?"``, or an empty string when nothing known is close to `name`."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""

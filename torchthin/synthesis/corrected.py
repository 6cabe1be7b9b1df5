"""A corrected copy of the user's own network description, with its comments and its order."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.errors import InputError

if TYPE_CHECKING:
    from torchthin.synthesis.network import ChipNetwork


def stated(path: str | Path) -> dict[str, Any]:
    raise InputError(f"not yet {path}")


def corrected_text(path: str | Path, network: ChipNetwork) -> tuple[str, tuple[str, ...]]:
    raise InputError(f"not yet {io}")

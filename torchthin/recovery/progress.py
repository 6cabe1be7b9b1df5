"""How far a recovery is: told after every layer that was refitted, and after every epoch."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str, float | None], None]
"""(done, in all, "layers" or "epochs", mean loss of the last epoch; of layers None)"""

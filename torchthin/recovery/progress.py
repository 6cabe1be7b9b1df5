"""How far a recovery is: told after every step that fits noise, every layer that was refitted, and every epoch."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str, float | None], None]
"""(done, in all, "noise", "layers" or "epochs", mean loss of the last epoch; else None)"""

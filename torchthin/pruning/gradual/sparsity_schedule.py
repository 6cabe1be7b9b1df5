"""When masks grow, and to what: all sparsities of a run are worked out and checked before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torchthin.config import Schedule
from torchthin.errors import ConfigError
from torchthin.selection import schedule as curves

Curve = Callable[[int], float]
"""Step (from 1) -> sparsity in [0, 1)."""


@dataclass(frozen=True)
class When:
    """The steps at which masks grow: ``start + interval``, ``start + 2 * interval``, ... and the sparsity at each."""

    planned: tuple[float, ...]
    """Sparsity after each growth."""
    start: int = 0
    """Step after which pruning begins."""
    interval: int = 1
    """Steps from one growth to the next."""

    @property
    def last(self) -> int:
        """The step with which the schedule ends."""
        return self.start + len(self.planned) * self.interval

    def due(self, step: int) -> bool:
        """Whether masks grow at `step`."""
        return self.start < step <= self.last and (step - self.start) % self.interval == 0

    def sparsity(self, step: int) -> float:
        """Return the sparsity that holds after `step`."""
        grown = min(max((step - self.start) // self.interval, 0), len(self.planned))
        return self.planned[grown - 1] if grown else 0.0


def plan_steps(schedule: Schedule, target: float) -> When:
    """Work out a whole schedule; `target` is the sparsity at its end, where its curve is no function.

    Raises:
        ConfigError: a function gives what is no sparsity, or one that falls.

    >>> plan_steps(Schedule("linear", steps=2, interval=3), 0.5)
    When(planned=(0.25, 0.5), start=0, interval=3)
    """
    curve, steps, start, interval = schedule.curve, schedule.steps, schedule.start, schedule.interval
    if callable(curve):
        planned = _checked(curve, range(start + interval, start + steps * interval + 1, interval))
    elif curve == "one-shot":
        planned = (target,)
    else:
        grow = curves.agp if curve == "agp" else curves.linear
        planned = tuple(grow(t, target=target, steps=steps) for t in range(1, steps + 1))
    return When(planned, start, interval)


def _checked(curve: Curve, steps: range) -> tuple[float, ...]:
    planned: list[float] = []
    for step in steps:
        value: Any = curve(step)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
            raise ConfigError(
                f"The schedule of Pruner must give a sparsity in [0, 1). Got {value!r} at step {step}."
            )
        if planned and float(value) < planned[-1]:
            raise ConfigError(
                f"The schedule of Pruner must not fall: masks only grow. Got {float(value):g} at step {step} "
                f"after {planned[-1]:g}."
            )
        planned.append(float(value))
    return tuple(planned)

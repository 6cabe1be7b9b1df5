"""When masks grow, and to what: all sparsities of a run are worked out and checked before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from torchthin.errors import ConfigError, near_matches
from torchthin.selection import schedule

Curve = Callable[[int], float]
"""Step (from 1) -> sparsity in [0, 1)."""
CURVES = ("agp", "linear", "one-shot")


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


def plan_steps(curve: str | Curve, target: float, steps: Any, start: Any, interval: Any) -> When:
    """Work out a whole schedule.

    Args:
        curve: "agp" (Zhu & Gupta 2017), "linear", "one-shot" (all at the first step), or a function of the step that
            gives the sparsity itself; `target` then counts for nothing.
        target: sparsity at the end, in [0, 1).
        steps: how often masks grow.
        start: step after which they begin to.
        interval: steps from one growth to the next.

    Raises:
        ConfigError: a number is out of range, the curve is unknown, or a function gives what is no sparsity or falls.

    >>> plan_steps("linear", 0.5, 2, 0, 3)
    When(planned=(0.25, 0.5), start=0, interval=3)
    """
    steps, interval = _whole("steps", steps, 1), _whole("interval", interval, 1)
    start = _whole("start", start, 0)
    if callable(curve):
        return When(
            _checked(curve, range(start + interval, start + steps * interval + 1, interval)), start, interval
        )
    if curve not in CURVES:
        raise ConfigError(
            f"The schedule of Pruner must be one of {', '.join(CURVES)}, or a function of the step. "
            f"Got {curve!r}.{near_matches(str(curve), CURVES)}"
        )
    if curve == "one-shot":
        return When((target,), start, interval)
    grow = schedule.agp if curve == "agp" else schedule.linear
    return When(tuple(grow(t, target=target, steps=steps) for t in range(1, steps + 1)), start, interval)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"The {name} of Pruner must be a whole number of at least {least}. Got {value!r}.")
    return int(value)


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

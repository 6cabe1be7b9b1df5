"""Schedules: step -> sparsity. Pure functions of numbers, no torch.

A schedule starts at `initial` at step `start`, reaches `target` at step ``start + steps * interval`` and
stays there. The step is passed in, never counted inside, so calling twice or resuming a run gives the same
value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torchthin.config import Distiller, PruneConfig, Schedule
from torchthin.errors import ConfigError


def _progress(step: float, start: float, steps: int, interval: float) -> float:
    """Return the share of the way done at `step`, clamped to [0, 1]; exactly 1.0 at the last step."""
    if steps < 1:
        raise ConfigError(f"The steps of a schedule must be at least 1. Got {steps}.")
    if interval <= 0:
        raise ConfigError(f"The interval of a schedule must be positive. Got {interval}.")
    return min(max((step - start) / (steps * interval), 0.0), 1.0)


def agp(
    step: float, *, target: float, steps: int, initial: float = 0.0, start: float = 0, interval: float = 1
) -> float:
    """Return the sparsity of automated gradual pruning at `step`.

    ``s_t = s_f + (s_i - s_f) * (1 - (t - t0) / (n * dt))**3`` (Zhu & Gupta 2017, "To prune, or not to prune",
    equation 1), clamped: `initial` before `start`, `target` after the last step.

    >>> [agp(t, target=0.5, steps=4) for t in range(5)]
    [0.0, 0.2890625, 0.4375, 0.4921875, 0.5]
    """
    left = 1.0 - _progress(step, start, steps, interval)
    return target + (initial - target) * left**3


def linear(
    step: float, *, target: float, steps: int, initial: float = 0.0, start: float = 0, interval: float = 1
) -> float:
    """Return the sparsity at `step` when it grows by the same amount every step.

    >>> [linear(t, target=0.5, steps=4) for t in range(5)]
    [0.0, 0.125, 0.25, 0.375, 0.5]
    """
    left = 1.0 - _progress(step, start, steps, interval)
    return target + (initial - target) * left


def one_shot(step: float, *, target: float, initial: float = 0.0, start: float = 0) -> float:
    """Return `initial` up to and including step `start`, then `target`: everything at once.

    >>> [one_shot(t, target=0.5) for t in range(3)]
    [0.0, 0.5, 0.5]
    """
    return target if step > start else initial


@dataclass(frozen=True)
class SparsitySchedule:
    """The steps at which masks grow (``start + interval``, ``start + 2 * interval``, ...), and the sparsity at each."""

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


def sparsity_schedule(schedule: Schedule, target: float) -> SparsitySchedule:
    """Compute all sparsities of a run, so that a curve that cannot be used is refused before the run starts.

    `target` is the sparsity at the end; a curve that is a function replaces it.

    Raises:
        ConfigError: a function gives a value that is no sparsity, or one that falls.

    >>> sparsity_schedule(Schedule("linear", steps=2, interval=3), 0.5)
    SparsitySchedule(planned=(0.25, 0.5), start=0, interval=3)
    """
    curve, steps, start, interval = schedule.curve, schedule.steps, schedule.start, schedule.interval
    if callable(curve):
        planned = _checked(curve, range(start + interval, start + steps * interval + 1, interval))
    elif curve == "one-shot":
        planned = (target,)
    else:
        sparsity = agp if curve == "agp" else linear
        planned = tuple(sparsity(t, target=target, steps=steps) for t in range(1, steps + 1))
    return SparsitySchedule(planned, start, interval)


def _checked(curve: Callable[[int], float], steps: range) -> tuple[float, ...]:
    planned: list[float] = []
    for step in steps:
        value: Any = curve(step)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
            raise ConfigError(
                f"The curve of Schedule must give a sparsity in [0, 1). Got {value!r} at step {step}."
            )
        if planned and float(value) < planned[-1]:
            raise ConfigError(
                f"The curve of Schedule must not fall: masks only grow. Got {float(value):g} at step {step} "
                f"after {planned[-1]:g}."
            )
        planned.append(float(value))
    return tuple(planned)


def planned_sparsities(config: PruneConfig) -> tuple[float, ...]:
    """Return the sparsity after every virtual step of a run; the last one is what is asked for.

    With Distiller's AGP the last one is above the target, as there.
    """
    target = config.target
    if not isinstance(target, Distiller):
        return sparsity_schedule(config.schedule, target.share).planned
    if not target.rule.agp:
        return (target.share,)
    steps = target.agp_steps
    planned = sparsity_schedule(Schedule("agp", steps), target.share).planned
    return (*planned[:-1], agp_target(target.share, steps))


def agp_target(sparsity: float, steps: int) -> float:
    """Return what Distiller's AGP asks for at step `steps` of `steps`, its range's end: more than `sparsity`.

    >>> agp_target(0.5, 2), agp_target(0.5, 3)
    (1.0, 0.5625)
    """
    if sparsity <= 0:
        raise ConfigError("The target_sparsity of Distiller's AGP must be above its initial 0. Got 0.")
    if steps < 2:
        raise ConfigError(f"The agp_steps of Distiller's AGP must be at least 2. Got {steps}.")
    span = steps - 1
    # Distiller's own order of operations: another one can differ in the last bit, and floor() shows that.
    return sparsity + (0.0 - sparsity) * (1.0 - steps / span) ** 3

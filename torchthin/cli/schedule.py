"""``--distiller-schedule``: one pruner of a Distiller YAML as options of a run."""

from __future__ import annotations

from typing import Any

from torchthin.io.distiller.schedule import read_schedule

_TAKEN = ("method", "target_sparsity", "agp_steps", "weights", "criterion", "compat")


def schedule_options(path: str, name: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options that a schedule's pruner stands for, and what of the file was left out.

    Raises:
        ConfigError: the file is no such schedule, or has several pruners and none was chosen.
    """
    schedule = read_schedule(path)
    chosen = schedule.pruner(name)
    facts = chosen.config.to_dict()
    options = {key: facts[key] for key in _TAKEN if facts.get(key) is not None}
    notes = [*schedule.notes, *_times(chosen.start, chosen.steps, chosen.interval, chosen.initial)]
    others = [pruner.name for pruner in schedule.pruners if pruner is not chosen]
    if others:
        notes.append(f"pruners not in this run: {', '.join(others)}.")
    return options, tuple(f"Distiller schedule: {note}" for note in notes)


def _times(start: int, steps: int, interval: int, initial: float) -> list[str]:
    if not steps:
        return []
    return [
        f"the epochs {start} to {start + steps * interval} by {interval}, from {initial:g} on, are for training "
        "(torchthin.Pruner); this run goes to the end at once."
    ]

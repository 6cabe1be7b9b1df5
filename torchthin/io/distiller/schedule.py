"""A schedule in Distiller's YAML: its pruners and their policies in this package's words. No torch, no Distiller.

A policy fires at the beginning of the epochs ``range(starting_epoch, ending_epoch, frequency)``. AGP has ``initial_sparsity`` at
the first of them and ``final_sparsity`` at the last one, which is before ``ending_epoch``. The file is read with PyYAML's safe
loader; Distiller's own lets tags in the file run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchthin.config import PruneConfig, Schedule
from torchthin.config.files import read_yaml
from torchthin.errors import ConfigError, near_matches, one_line
from torchthin.io.distiller.classes import CLASSES, PrunerChoice, choice_of
from torchthin.selection import schedule

_SECTIONS = ("pruners", "policies", "version")
_TIMES = ("starting_epoch", "ending_epoch", "frequency")


@dataclass(frozen=True)
class PrunerSchedule:
    """One pruner of the file and when it fires."""

    name: str
    config: PruneConfig
    """What it prunes, and how much at the end."""
    initial: float
    """Sparsity from the first epoch that it fires in; at once the final one where there is no AGP."""
    start: int
    """That epoch."""
    steps: int
    """How often it fires after the first."""
    interval: int
    """Epochs from one time to the next."""

    def sparsity(self, epoch: int) -> float:
        """Return the sparsity in `epoch`, counted from 0: none before the first event, and held between events.

        >>> trunk = PrunerSchedule("trunk", PruneConfig(0.5), 0.05, start=1, steps=4, interval=2)
        >>> [round(trunk.sparsity(epoch), 3) for epoch in range(11)]
        [0.0, 0.05, 0.05, 0.31, 0.31, 0.444, 0.444, 0.493, 0.493, 0.5, 0.5]
        """
        if epoch < self.start:
            return 0.0
        if not self.steps:
            return self.config.target.share
        fired = self.start + (epoch - self.start) // self.interval * self.interval
        return schedule.agp(
            fired,
            target=self.config.target.share,
            steps=self.steps,
            initial=self.initial,
            start=self.start,
            interval=self.interval,
        )

    @property
    def calls(self) -> int:
        """Calls of `Pruner.step`, one for each epoch from 0, until the last event."""
        return self.start + self.steps * self.interval + 1

    @property
    def options(self) -> dict[str, Any]:
        """Options of `torchthin.Pruner` that do what Distiller's policy does, when `step` is called as every epoch begins.

        ``Pruner(model, images, **own.options, optimizer=optimizer)``
        """
        config = self.config
        schedule = Schedule(lambda step: self.sparsity(step - 1), steps=self.calls)
        return {
            "target": config.target,
            "criterion": config.criterion,
            "include": config.include,
            "schedule": schedule,
        }


@dataclass(frozen=True)
class DistillerSchedule:
    """The pruners of a file that are supported, and what is ignored."""

    pruners: tuple[PrunerSchedule, ...]
    """One for each pruning policy, in the file's order."""
    notes: tuple[str, ...]
    """Everything that is ignored, one line each."""

    def pruner(self, name: str | None = None) -> PrunerSchedule:
        """Return the pruner called `name`, or the only one.

        Raises:
            ConfigError: there is none of that name, or several to choose from.
        """
        names = [pruner.name for pruner in self.pruners]
        if name is None and len(names) == 1:
            return self.pruners[0]
        if name is None:
            raise ConfigError(
                f"The Distiller schedule has several pruners, and one run takes one: {', '.join(names)}. "
                "Choose it with --pruner NAME, and prune the result with the next one."
            )
        if names.count(name) != 1:
            raise ConfigError(
                f"The pruner must be one of {', '.join(names)}. Got {name!r}.{near_matches(name, names)}"
                if name not in names
                else f"The pruner {name!r} has several policies. Leave one in the file."
            )
        return self.pruners[names.index(name)]


def read_schedule(path: str | Path) -> DistillerSchedule:
    """Read the ``pruners`` and ``policies`` of a Distiller schedule.

    Raises:
        ConfigError: the file cannot be read, is no such schedule, has a number that Distiller refuses, or holds no pruner that
            is supported.
    """
    content = _read(Path(path))
    instances = _mapping(content.get("pruners", {}), "pruners", path)
    policies = content.get("policies") or []
    if not isinstance(policies, list) or not all(isinstance(policy, dict) for policy in policies):
        raise _wrong(path, "policies", "a list of mappings")
    notes = [_ignored(section, content[section]) for section in content if section not in _SECTIONS]
    choices: dict[str, PrunerChoice] = {}
    for name, given in instances.items():
        choice, ignored = choice_of(str(name), _mapping(given, f"pruners: {name}", path))
        notes += ignored
        if choice is not None:
            choices[str(name)] = choice
    found = []
    for number, policy in enumerate(policies):
        name = _pruner_of(policy, number, list(map(str, instances)), path)
        if name is None:
            kinds = ", ".join(str(key) for key in policy if key not in (*_TIMES, "epochs"))
            notes.append(f"policies[{number}]: ignored; it is for {kinds or 'nothing'}.")
        elif name in choices:
            found.append(_scheduled(name, choices[name], policy, f"policies[{number}]", path))
            if policy["pruner"].get("args"):
                options = ", ".join(map(str, policy["pruner"]["args"]))
                notes.append(f"policies[{number}]: its args are ignored: {options}.")
    used = {pruner.name for pruner in found}
    notes += [f"pruners: {name}: no policy uses it." for name in choices if name not in used]
    if not found:
        raise ConfigError(
            f"The Distiller schedule {path} has no pruner that is supported. {' '.join(notes)} "
            f"Supported classes: {', '.join(CLASSES)}."
        )
    return DistillerSchedule(tuple(found), tuple(notes))


def _ignored(section: str, content: Any) -> str:
    held = f"; it holds {', '.join(map(str, content or ['nothing']))}" if isinstance(content, dict) else ""
    return f"{section}: ignored{held}."


def _wrong(path: str | Path, where: str, allowed: str) -> ConfigError:
    return ConfigError(f"The {where} of the Distiller schedule {path} must be {allowed}. Correct the file.")


def _mapping(value: Any, where: str, path: str | Path) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(path, where, "a mapping")
    return value


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(
            f"The Distiller schedule {path} cannot be read: {error.strerror}. Check --distiller-schedule."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"The Distiller schedule {path} must be plain YAML: {one_line(error)}. Correct it."
        ) from error
    if not isinstance(content, dict) or not {"pruners", "policies"} & set(content):
        raise ConfigError(
            f"The Distiller schedule {path} must have the sections pruners and policies. "
            "Options of torchthin go into a file for --config."
        )
    return content


def _pruner_of(policy: Mapping[str, Any], number: int, names: list[str], path: str | Path) -> str | None:
    if "pruner" not in policy:
        return None
    given = policy["pruner"]
    name = given.get("instance_name") if isinstance(given, dict) else None
    if not isinstance(name, str) or name not in names:
        hint = near_matches(name, names) if isinstance(name, str) else ""
        listed = ", ".join(names) or "(there are none)"
        raise ConfigError(
            f"The instance_name in policies[{number}] of the Distiller schedule {path} must be one of its pruners: "
            f"{listed}. Got {name!r}.{hint}"
        )
    return name


def _scheduled(
    name: str, choice: PrunerChoice, policy: Mapping[str, Any], where: str, path: str | Path
) -> PrunerSchedule:
    final = choice.target.share
    if "epochs" in policy:
        epochs = policy["epochs"]
        if choice.gradual:
            raise _wrong(path, where, f"{', '.join(_TIMES)}, since AGP cannot follow a list of epochs")
        if not isinstance(epochs, list) or not epochs or not all(_whole(epoch) for epoch in epochs):
            raise _wrong(path, f"epochs in {where}", "a list of whole numbers from 0")
        return PrunerSchedule(name, choice.config(1), final, min(epochs), 0, 1)
    values: list[Any] = [policy.get(key) for key in _TIMES]
    if not all(_whole(value) for value in values):
        raise _wrong(path, f"{', '.join(_TIMES)} in {where}", "whole numbers from 0")
    start, end, interval = values
    if not start < end or not 0 < interval <= end - start:
        raise _wrong(
            path, where, "starting_epoch < ending_epoch and 0 < frequency <= ending_epoch - starting_epoch"
        )
    steps = (end - start - 1) // interval
    if not choice.gradual:
        return PrunerSchedule(name, choice.config(1), final, start, 0, interval)
    if steps < 1:
        raise _wrong(path, where, f"long enough for AGP to fire twice; {end - start} epochs are not")
    return PrunerSchedule(name, choice.config(steps), choice.initial, start, steps, interval)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

"""Files that hold options of ``prune``: its own (read, printed, described by a JSON Schema), and schedules of Distiller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchthin.cli.flags_from_fields import Flag, values_of
from torchthin.cli.targets import METHODS, prune_flags
from torchthin.config import DISTILLER_METHODS, PROOFS, SCOPES
from torchthin.config.files import read_yaml
from torchthin.errors import ConfigError, near_matches

if TYPE_CHECKING:
    from torchthin.cli.prune_options import PruneOptions
    from torchthin.io.distiller.schedule import PrunerSchedule

_CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(dict.fromkeys((*METHODS, *DISTILLER_METHODS))),
    "scope": SCOPES,
    "compat": ("distiller",),
    "backend": ("distiller",),
    "proof": PROOFS,
}
_OF_SCHEDULES = ("method", "target_sparsity", "agp_steps", "weights", "criterion", "compat")


def read_config(path: str, flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Return the options in a YAML file; dashes and underscores in keys are the same. An empty value is one that is not given.

    Raises:
        ConfigError: the file cannot be read, or has an unknown option, one twice, or a value of another type.
    """
    options: dict[str, Any] = {}
    for name, value in _mapping(path).items():
        key = str(name).replace("-", "_")
        if key not in flags:
            raise ConfigError(
                f"The configuration file {path} has the unknown option {key!r}.{near_matches(key, flags)} See --help."
            )
        if key in options:
            raise ConfigError(f"The configuration file {path} has the option {key!r} twice. Give it once.")
        options[key] = value
    given = {key: value for key, value in options.items() if value is not None}
    checked_later = prune_flags()  # by the target and PruneConfig, whose messages say more
    return {key: value if key in checked_later else flags[key].checked(value) for key, value in given.items()}


def _mapping(path: str) -> Mapping[Any, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}. Check --config."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"The configuration file {path} must be YAML: {error}. Correct it or write JSON."
        ) from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(
            f"The configuration file {path} must map options to values, such as method: l1-structured."
        )
    if {"pruners", "policies"} & set(content or {}):
        raise ConfigError(
            f"The configuration file {path} is a schedule of Distiller. Give it as --distiller-schedule {path}."
        )
    return content or {}


def schedule_options(path: str | None, name: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of one pruner in a schedule of Distiller, and what of the file was left out.

    Args:
        path: the schedule; None: there is none.
        name: the pruner, where the schedule has several.

    Raises:
        ConfigError: the file is no such schedule, or has several pruners and none was chosen.
    """
    if path is None:
        if name is not None:
            raise ConfigError(
                "The --pruner is one of a schedule. Give the file with --distiller-schedule as well."
            )
        return {}, ()
    from torchthin.io.distiller.schedule import read_schedule

    schedule = read_schedule(path)
    chosen = schedule.pruner(name)
    facts = chosen.config.to_dict()
    options = {key: facts[key] for key in _OF_SCHEDULES if facts.get(key) is not None}
    notes = [*schedule.notes, *_epochs(chosen)]
    others = [pruner.name for pruner in schedule.pruners if pruner is not chosen]
    if others:
        notes.append(f"pruners not in this run: {', '.join(others)}.")
    return options, tuple(f"Distiller schedule: {note}" for note in notes)


def _epochs(chosen: PrunerSchedule) -> list[str]:
    if not chosen.steps:
        return []
    end = chosen.start + chosen.steps * chosen.interval
    return [
        f"the epochs {chosen.start} to {end} by {chosen.interval}, from {chosen.initial:g} on, are for training "
        "(torchthin.Pruner); this run reaches the end at once."
    ]


def config_text(options: PruneOptions, flags: Mapping[str, Flag]) -> str:
    """Return all options that have a value as YAML; a run of this file is the same run."""
    import yaml

    values = {
        key: value for key, value in values_of(options).items() if key in flags
    } | options.prune.to_dict()
    given = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None and value not in ("", ())
    }
    return str(yaml.safe_dump(given, sort_keys=False, allow_unicode=True))


def config_schema(flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file with these options."""
    found = {
        key: flag.schema(_CHOICES.get(key, ()), False if key == "thin" else None)
        for key, flag in flags.items()
    }
    dashed = {name.replace("_", "-"): {"$ref": f"#/properties/{name}"} for name in found if "_" in name}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "torchthin prune --config",
        "type": "object",
        "properties": {**found, **dashed},
        "additionalProperties": False,
    }

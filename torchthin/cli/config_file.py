"""The configuration file of ``prune``: what a run would write (``--print-config``), and its JSON Schema (``--print-schema``)."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchthin.cli.targets import DEFAULT_METHOD, KINDS, METHODS, options_of
from torchthin.config import DISTILLER_METHODS, SCOPES, PruneConfig

if TYPE_CHECKING:
    from torchthin.cli.options import PruneOptions

_ENUMS: dict[str, tuple[str, ...]] = {
    "method": (*METHODS, *(name for name in DISTILLER_METHODS if name not in METHODS)),
    "scope": SCOPES,
    "compat": ("distiller",),
    "backend": ("distiller",),
}
_LIMITS = ("target_cycles", "target_kernel_words", "target_params", "target_macs")
"""Shares such as 0.4x, or numbers."""
_TYPES: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    dict: {"type": "object"},
    tuple: {"type": ["array", "string"], "items": {"type": "string"}},
    type(None): {"type": "null"},
}


def config_text(options: PruneOptions, run_keys: Mapping[str, Any]) -> str:
    """Return all options that are not None as YAML; read back it makes the same run.

    Args:
        options: what was given, over the defaults.
        run_keys: names of the options that are not about how to prune.
    """
    import yaml

    values = {key: getattr(options, key) for key in run_keys}
    values |= options.prune.to_dict()
    given = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None and value != ""
    }
    if not given.get("input_shape"):
        given.pop("input_shape", None)
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)


def config_schema(run_types: Mapping[str, tuple[type[Any], str]], helps: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file.

    Args:
        run_types: options that are not about how to prune -> their type and what is allowed in words.
        helps: option -> help text of its flag.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (kind, _) in run_types.items():
        found[name] = dict(_TYPES[kind])
    found |= {
        "method": _typed("method", str),
        "compat": _typed("compat", str | None),
        "pattern": _typed("pattern", str),
    }
    found["method"]["default"] = DEFAULT_METHOD
    for kind in (*KINDS, PruneConfig):
        hints = typing.get_type_hints(kind)
        for key, item in options_of(kind).items():
            default = False if key == "thin" else item.default
            found.setdefault(
                key, {**_typed(key, hints[item.name]), "default": json.loads(json.dumps(default))}
            )
    for name, schema in found.items():
        if name in helps:
            schema["description"] = helps[name].replace("%%", "%")
    dashed = {name.replace("_", "-"): {"$ref": f"#/properties/{name}"} for name in found if "_" in name}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "torchthin prune --config",
        "type": "object",
        "properties": {**found, **dashed},
        "additionalProperties": False,
    }


def _typed(name: str, hint: Any) -> dict[str, Any]:
    """Return what values of an option may be."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    options = [dict(_TYPES[typing.get_origin(part) or part]) for part in parts]
    if name in _ENUMS:
        options = [
            {"type": "string", "enum": list(_ENUMS[name])} if option["type"] == "string" else option
            for option in options
        ]
    if name in _LIMITS:
        options.append({"type": "number"})
    return options[0] if len(options) == 1 else {"anyOf": options}

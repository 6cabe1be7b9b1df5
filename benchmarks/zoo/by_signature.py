"""Objects of a class built from what its constructor asks for: every parameter gets a value by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from zoo.candidates import tried
from zoo.case import Inputs, outputs_of


def arguments(kind: Any, sizes: Mapping[str, Any], also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return arguments for a class: those that it requires, by `sizes`, and others that `also` names and it has.

    Raises:
        ValueError: a required parameter is in neither.
    """
    made = dict[str, Any]()
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in (also or {}):
            made[name] = (also or {})[name]
        elif parameter.default is parameter.empty:
            if name not in sizes:
                raise ValueError(f"no rule for the parameter {name}")
            made[name] = sizes[name]
    return made


def first_that_runs(
    kind: Any, ways: Iterable[Mapping[str, Any]], inputs: Iterable[Inputs]
) -> tuple[nn.Module, Inputs]:
    """Return an object of a class, and an input, that run together.

    Raises:
        ValueError: none does, with what the last built one raised, if one was built.
    """
    inputs, errors, built = list(inputs), list[Exception](), list[Exception]()
    for given in ways:
        model = tried(lambda given=given: kind(**given).eval())  # type: ignore[misc]
        if isinstance(model, Exception):
            errors.append(model)
            continue
        for candidate in inputs:
            made = tried(partial(outputs_of, model, candidate))
            if isinstance(made, Exception):
                built.append(made)
            elif any(tensor.is_floating_point() for tensor in made):
                return model, candidate
    raise ValueError("; ".join(f"{type(e).__name__}: {e}" for e in (built or errors)[:1]) or "nothing to try")

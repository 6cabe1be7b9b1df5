"""Why no configuration describes a model: the field or the layers in the way, and what to do, in one line."""

from __future__ import annotations

import re
from typing import Any

from torchthin.io.pretrained.config_search import ConfigSearch, Trial
from torchthin.io.pretrained.fields import Field, name_of
from torchthin.io.pretrained.sizes import LENGTH, Place
from torchthin.thinning.history import recipe_of

_SHOWN = 3
_EVENLY = "even=True, --even, on an example that runs all of them"
OTHERWISE = (
    "save it with described=False (--no-described) for torchthin.integrations.transformers.from_pretrained"
)
"""What is always possible."""


def why_undescribed(model: Any, search: ConfigSearch, trial: Trial) -> str:
    """Return what is in the way of a configuration whose class has all shapes of the model, and what to do."""
    why, cure = obstacle(model, search, trial)
    return f"No configuration describes the pruned {type(model).__name__}: {why}. {cure}."


def obstacle(model: Any, search: ConfigSearch, trial: Trial) -> tuple[str, str]:
    """Return what is in the way, and what to do, as parts of sentences."""
    names = type(model).__name__, type(model.config).__name__
    item = trial.saved[0]
    field = _field_of(search, item.place)
    where = _where(item.place)
    if item.now is None or item.wanted is None:
        why = f"{where} is {'not ' if item.now is None else 'only '}in a {names[0]} of any configuration"
        history = recipe_of(model)
        if history is not None and history.layers:
            return why, "Leave out other layers (exclude=[...], --exclude), or save it with torchthin.save"
        return why, f"Prune without add_biases, or {OTHERWISE}"
    if field is None:
        why = f"no field of {names[1]} sets {where} to {item.wanted} (the class makes {item.now})"
        return why, f"Leave that size as it is, or {OTHERWISE}"
    sizes = _sizes_wanted(search, trial, field, item.now)
    shown = [f"{_where(place)} ({size})" for size, place in sizes.items()]
    more = f" and {len(shown) - _SHOWN} other sizes" if len(shown) > _SHOWN else ""
    why = f"{name_of(field)} of {names[1]} is one number for {', '.join(shown[:_SHOWN])}{more}"
    if len(shown) == 1:
        why = f"{where} has {item.wanted}, where the class makes {item.now} of {name_of(field)} in {names[1]}"
    names_of_sizes = {name for name, _ in sizes.values()}
    alike = len({re.sub(r"\d+", "*", name) for name in names_of_sizes}) == 1 < len(names_of_sizes)
    cure = f"Cut these layers evenly ({_EVENLY})" if alike else "Prune other kinds"
    return why, f"{cure}, or {OTHERWISE}"


def _field_of(search: ConfigSearch, place: Place) -> Field | None:
    """Return the field that sets a size; of several, the one that sets the fewest others."""
    setters = [field for field, places in search.sets.items() if place in places]
    return min(setters, key=lambda field: len(search.sets[field]), default=None)


def _sizes_wanted(
    search: ConfigSearch, trial: Trial, field: Field, now: int | float
) -> dict[int | float, Place]:
    """Return each size that the field would have to be, with a tensor that needs it."""
    wanted, found = search.wanted.saved, dict[int | float, Place]()
    for place in wanted:
        if place in search.sets[field] and trial.sizes.saved.get(place) == now:
            found.setdefault(wanted[place], place)
    return found


def _where(place: Place) -> str:
    name, axis = place
    if axis == LENGTH:
        return f"the length of {name}"
    return name if axis == 0 else f"axis {axis} of {name}"

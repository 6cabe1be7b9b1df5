"""Why no configuration describes a model: the field or the layers in the way, and what to do, in one line."""

from __future__ import annotations

from typing import Any

from torchthin.io.pretrained.config_search import ConfigSearch, Trial
from torchthin.io.pretrained.fields import Field, name_of
from torchthin.io.pretrained.sizes import LENGTH, Misfit, Place

_SHOWN = 3
OTHERWISE = (
    "save it with described=False (--no-described) for torchthin.integrations.transformers.from_pretrained"
)
"""What is always possible."""


def why_undescribed(model: Any, search: ConfigSearch, trial: Trial) -> str:
    """Return what is in the way of a configuration whose class has all shapes of the model."""
    names = type(model).__name__, type(model.config).__name__
    item = trial.saved[0]
    field = _field_of(search, item.place)
    if item.now is None or item.wanted is None:
        why = (
            f"{_shown(item)} is {'not ' if item.now is None else 'only '}in a {names[0]} of any configuration"
        )
        cure = "Prune without add_biases"
    elif field is None:
        why = f"no field of {names[1]} sets {_shown(item)} to {item.wanted} ({names[0]} has {item.now} there)"
        cure = "Exclude this layer"
    else:
        sizes = _sizes_wanted(search, trial, field, item.now)
        why = f"{name_of(field)} of {names[1]} is one number for {sizes}"
        cure = "Give all of these the same size (an even cut)"
    return f"No configuration describes the pruned {names[0]}: {why}. {cure}, or {OTHERWISE}."


def _field_of(search: ConfigSearch, place: Place) -> Field | None:
    """Return the field that sets a size; of several, the one that sets the fewest others."""
    setters = [field for field, places in search.sets.items() if place in places]
    return min(setters, key=lambda field: len(search.sets[field]), default=None)


def _sizes_wanted(search: ConfigSearch, trial: Trial, field: Field, now: int | float) -> str:
    """Name for each size that the field would have to give a tensor that needs it."""
    wanted = search.wanted.saved
    examples: dict[int | float, Place] = {}
    for place in wanted:
        if place in search.sets[field] and trial.sizes.saved.get(place) == now:
            examples.setdefault(wanted[place], place)
    shown = [f"{_where(place)} ({size})" for size, place in examples.items()]
    more = f" and {len(shown) - _SHOWN} other sizes" if len(shown) > _SHOWN else ""
    return f"{', '.join(shown[:_SHOWN])}{more}"


def _shown(item: Misfit) -> str:
    return _where(item.place)


def _where(place: Place) -> str:
    name, axis = place
    if axis == LENGTH:
        return f"the length of {name}"
    return name if axis == 0 else f"axis {axis} of {name}"

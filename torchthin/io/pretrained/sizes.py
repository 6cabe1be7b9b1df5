"""The sizes of a model: what a configuration must give, and what tells apart configurations that give the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from torchthin.graph.clone import modules_of

Place = tuple[str, int | str]
"""A tensor and its axis, or a module and its attribute."""
Numbers = Mapping[Place, "int | float"]
LENGTH = "length"
"""Stands for the attribute where a list of modules is counted."""


@dataclass(frozen=True)
class Sizes:
    """Numbers by place."""

    saved: Numbers
    """Of all that a state dict holds, and the lengths of lists of modules: these must be equal."""
    kept: Numbers
    """Of buffers that are not saved, and numbers that modules keep: some of these say how a shape is used."""


@dataclass(frozen=True)
class Misfit:
    """A number that another model has otherwise."""

    place: Place
    now: int | float | None
    """None: there is no such place."""
    wanted: int | float | None


def sizes_of(model: nn.Module) -> Sizes:
    """Return the sizes of a model, which may be on the meta device."""
    state = model.state_dict()
    saved: dict[Place, int | float] = {
        (name, axis): size
        for name, value in state.items()
        if isinstance(value, Tensor)
        for axis, size in enumerate(value.shape or (1,))
    }
    kept: dict[Place, int | float] = {}
    for path, module in modules_of(model):
        if isinstance(module, nn.ModuleList):
            saved[path, LENGTH] = len(module)
        for name, value in vars(module).items():
            if type(value) in (int, float) and not name.startswith("_"):
                kept[path, name] = value
        for name in getattr(module, "_non_persistent_buffers_set", ()):
            tensor = module._buffers.get(name)
            whole = f"{path}.{name}" if path else name
            if tensor is not None:
                kept |= {(whole, axis): size for axis, size in enumerate(tensor.shape)}
    return Sizes(saved, kept)


def misfits(now: Numbers, wanted: Numbers) -> list[Misfit]:
    """Return what differs, in the order of `wanted`."""
    places = [*wanted, *(place for place in now if place not in wanted)]
    return [Misfit(p, now.get(p), wanted.get(p)) for p in places if now.get(p) != wanted.get(p)]


def common_misfits(now: Numbers, wanted: Numbers) -> list[Misfit]:
    """Return what differs of the places that both have."""
    return [Misfit(p, now[p], wanted[p]) for p in wanted if p in now and now[p] != wanted[p]]

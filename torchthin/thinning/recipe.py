"""The recipe: everything that thins a model, as plain data."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.dependency.groups import Group, IntArray
from torchthin.errors import CheckpointError, InputError, one_line
from torchthin.graph.kept_integers import kept_value
from torchthin.selection.masks import only_axis, without_copies
from torchthin.thinning.layer_names import name_after, name_before

VERSION = 1
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Recipe:
    """Kept indices per parameter axis and the integers that mirror sizes.

    A recipe fits one class at one set of sizes; applying it is the only thing that thins a model.
    """

    shapes: Mapping[str, tuple[int, ...]]
    """Shape before, of every tensor that changes."""
    keep: Mapping[str, Mapping[int, tuple[int, ...]]]
    """Parameter or buffer name -> axis -> kept indices, ascending."""
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Module name -> attribute, with the way into what it holds (``dims.1``) -> value after."""
    added: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Parameters that the layer did not have (a bias that absorbs a constant) -> shape after."""
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """List of modules -> positions that are kept. It is done first: every other name is that of the shortened model."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Length before, of every list that becomes shorter."""

    def __bool__(self) -> bool:
        return bool(self.keep or self.layers)

    @property
    def of_channels(self) -> Recipe:
        """What is left to do once the lists are shorter."""
        return replace(self, layers={}, lengths={}) if self.layers else self

    def shape_after(self, name: str) -> tuple[int, ...]:
        """Return the shape of a changed tensor after thinning."""
        kept = self.keep[name]
        return tuple(len(kept[d]) if d in kept else n for d, n in enumerate(self.shapes[name]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-able data."""
        shared: dict[
            int, list[int]
        ] = {}  # many axes share their indices, and lists that are shared are written once

        def listed(kept: tuple[int, ...]) -> list[int]:
            return shared[id(kept)] if id(kept) in shared else shared.setdefault(id(kept), list(kept))

        layers = {name: list(kept) for name, kept in self.layers.items()}
        return {
            "version": VERSION,
            **({"layers": layers, "lengths": dict(self.lengths)} if layers else {}),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "keep": {n: {str(d): listed(kept) for d, kept in axes.items()} for n, axes in self.keep.items()},
            "attributes": {name: dict(values) for name, values in self.attributes.items()},
            "added": {name: list(shape) for name, shape in self.added.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: when the data is of another version or incomplete.
        """
        if data.get("version") != VERSION:
            raise CheckpointError(
                f"The recipe has version {data.get('version')!r}; this release reads version {VERSION}. "
                "Thin again, or use the release that wrote it."
            )
        read = _Lists()
        try:
            recipe = cls(
                {str(name): read.whole(shape) for name, shape in data["shapes"].items()},
                {
                    str(name): {int(d): read.ascending(kept) for d, kept in axes.items()}
                    for name, axes in data["keep"].items()
                },
                {n: {k: _plain(v) for k, v in values.items()} for n, values in data["attributes"].items()},
                {str(name): read.whole(shape) for name, shape in data["added"].items()},
                {str(name): read.ascending(kept) for name, kept in data.get("layers", {}).items()},
                dict(
                    zip(
                        data.get("lengths", {}),
                        read.whole(list(data.get("lengths", {}).values())),
                        strict=True,
                    )
                ),
            )
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"The recipe is damaged ({one_line(error)}). Thin again.") from error
        if not recipe.keep.keys() <= recipe.shapes.keys():
            raise CheckpointError("The recipe is damaged (it cuts tensors without a shape). Thin again.")
        if recipe.layers.keys() != recipe.lengths.keys():
            raise CheckpointError("The recipe is damaged (it shortens lists without a length). Thin again.")
        return recipe

    def below(self, path: str) -> Recipe:
        """Return the recipe for a model of which the one it was made for is the module `path`."""
        start = f"{path}." if path else ""
        return Recipe(
            {start + name: shape for name, shape in self.shapes.items()},
            {start + name: axes for name, axes in self.keep.items()},
            {(start + name).rstrip("."): values for name, values in self.attributes.items()},
            {start + name: shape for name, shape in self.added.items()},
            {(start + name).rstrip("."): kept for name, kept in self.layers.items()},
            {(start + name).rstrip("."): length for name, length in self.lengths.items()},
        )

    def _without(self, layers: Mapping[str, tuple[int, ...]]) -> Recipe:
        """Return the same for a model whose lists are shorter already; what it does to layers that are gone is left out."""

        def left(part: Mapping[str, _Value]) -> dict[str, _Value]:
            return {after: part[name] for name in part if (after := name_after(name, layers)) is not None}

        return replace(
            self,
            shapes=left(self.shapes),
            keep=left(self.keep),
            attributes=left(self.attributes),
            added=left(self.added),
        )

    def _shorter_by(self, later: Recipe) -> Recipe:
        """Return the recipe that does this one and then shortens lists as `later` does."""
        layers, lengths = dict(self.layers), dict(self.lengths)
        for name, kept in later.layers.items():
            whole = name_before(name, self.layers)
            lengths.setdefault(whole, later.lengths[name])
            layers[whole] = tuple(layers[whole][i] for i in kept) if whole in layers else kept
        return replace(self._without(later.layers), layers=layers, lengths=lengths)

    def then(self, later: Recipe) -> Recipe:
        """Return the recipe that does this one and then `later` (whose indices count in the thinned model)."""
        if later.layers:
            return self._shorter_by(later).then(later.of_channels)
        shapes = dict(self.shapes)
        keep = {name: dict(axes) for name, axes in self.keep.items()}
        added = dict(self.added)
        for name, axes in later.keep.items():
            if name in added:
                added[name] = later.shape_after(name)
                continue
            shapes.setdefault(name, later.shapes[name])
            mine = keep.setdefault(name, {})
            for d, kept in axes.items():
                mine[d] = tuple(mine[d][i] for i in kept) if d in mine else kept
        attributes = {name: dict(values) for name, values in self.attributes.items()}
        for name, values in later.attributes.items():
            attributes.setdefault(name, {}).update(values)
        return replace(self, shapes=shapes, keep=keep, attributes=attributes, added={**added, **later.added})


class _Lists:
    """Lists of a file as tuples; a list that many entries share becomes one tuple."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, ...]] = {}

    def whole(self, values: Any) -> tuple[int, ...]:
        if id(values) not in self._known:
            if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
                raise ValueError(f"{reprlib.repr(values)} are no whole numbers")
            self._known[id(values)] = tuple(values)
        return self._known[id(values)]

    def ascending(self, values: Any) -> tuple[int, ...]:
        found = self.whole(values)
        if not all(map(operator.lt, found, found[1:])):
            raise ValueError(f"{reprlib.repr(values)} do not ascend")
        return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def kept_indices(
    groups: tuple[Group, ...],
    keeps: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]],
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, tuple[int, ...]], dict[str, dict[int, tuple[int, ...]]]]:
    """Return the shapes and kept indices of all tensors that lose something."""
    removed: dict[tuple[str, int], list[IntArray]] = {}
    for group in groups:
        keep = keeps.get(group.name)
        if keep is None or keep.all():
            continue
        met: dict[tuple[int, int], IntArray] = {}  # members that lie alike share their arrays
        for member in group.members:
            alike = (id(member.indices), id(member.channels))
            lost = met[alike] if alike in met else met.setdefault(alike, member.removed(keep))
            if lost.size:
                removed.setdefault((member.parameter, member.axis), []).append(lost)
    shapes: dict[str, tuple[int, ...]] = {}
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    known: dict[bytes, tuple[int, ...]] = {}  # equal axes share one tuple
    same: dict[tuple[int, ...], tuple[int, ...]] = {}
    for (name, axis), lost_parts in removed.items():
        shapes[name] = tuple(tensors[name].shape)
        parts = (shapes[name][axis], *map(id, lost_parts))
        if parts not in same:
            left = np.ones(shapes[name][axis], np.bool_)
            left[np.concatenate(lost_parts)] = False
            key = left.tobytes()
            same[parts] = known[key] if key in known else tuple(np.flatnonzero(left).tolist())
            known[key] = same[parts]
        kept.setdefault(name, {})[axis] = same[parts]
    return shapes, kept


def cut(tensor: Tensor, axes: Mapping[int, tuple[int, ...]], met: dict[int, Tensor] | None = None) -> Tensor:
    """Return `tensor` with only the kept indices of each axis, in its memory format.

    `met`: the index tensors of a recipe that is being applied, which many tensors share, by the ``id`` of the indices.
    """
    for axis, kept in axes.items():
        index = None if met is None else met.get(id(kept))
        if index is None or index.device != tensor.device:
            index = torch.tensor(kept, dtype=torch.int64, device=tensor.device)
            if met is not None:
                met[id(kept)] = index
        tensor = tensor.index_select(axis, index)
    return tensor


def cut_mask(mask: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    """Return what `cut` does of a mask; one that is a view of one decision for each channel stays such a view."""
    axis = only_axis(mask)
    if axis is None:
        return cut(mask, axes)
    shape = [len(axes[d]) if d in axes else size for d, size in enumerate(mask.shape)]
    once = without_copies(mask)
    return cut(once, {axis: axes[axis]} if axis in axes else {}).expand(shape)


def check_fits(recipe: Recipe, tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    """Check that the recipe was made for a model of these shapes.

    Args:
        recipe: what is to be applied.
        tensors: the model's parameters and buffers by first name.
        modules: the model's modules by name.

    Raises:
        InputError: naming the first tensor, module or attribute that differs.
    """
    for name, shape in recipe.shapes.items():
        if name not in tensors:
            raise InputError(
                f"The recipe names {name}, which the model does not have. Build the class it was made for; a tensor that a run "
                "of the model caches must not be there yet when it is pruned."
            )
        if tuple(tensors[name].shape) != shape:
            raise InputError(
                f"The recipe was made for {name} of shape {shape}; the model has {tuple(tensors[name].shape)}. "
                "Build the full-size class it was made for."
            )
    _check_indices(recipe)
    for path, values in recipe.attributes.items():
        for attribute in values:
            _check_attribute(modules.get(path), path, attribute)
    for name in recipe.added:
        path, _, local = name.rpartition(".")
        if getattr(modules.get(path), local, modules) is not None:
            raise InputError(
                f"The recipe adds {name}, which the model has already or cannot have. "
                "Build the full-size class it was made for."
            )


def _check_attribute(module: nn.Module | None, path: str, attribute: str) -> None:
    try:
        kept_value(module, attribute)
    except LookupError as error:
        raise InputError(
            f"The recipe sets {attribute} of the module {path!r}, which the model does not have. "
            "Build the class it was made for."
        ) from error


def _check_indices(recipe: Recipe) -> None:
    ends: dict[int, tuple[int, int]] = {}  # many axes share their indices
    for name, axes in recipe.keep.items():
        shape = recipe.shapes.get(name, ())
        for axis, kept in axes.items():
            if id(kept) not in ends:
                ends[id(kept)] = (min(kept, default=-1), max(kept, default=-1))
            first, last = ends[id(kept)]
            if not (0 <= axis < len(shape) and 0 <= first <= last < shape[axis]):
                raise InputError(
                    f"The recipe is damaged: the indices to keep of {name} do not lie in {shape}. Thin again."
                )

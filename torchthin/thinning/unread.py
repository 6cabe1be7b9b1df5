"""Tensors of a model that no recorded op reads: other code may use them together with what is cut."""

from __future__ import annotations

from torchthin.graph.opgraph import Op
from torchthin.graph.trace import Traced
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.survivors import Place


def unread_tensors(traced: Traced, recipe: Recipe) -> tuple[str, ...]:
    """Name the tensors that no op of the run reads, and that are as long as something that is cut."""
    cut = {recipe.shapes[name][axis] for name, axes in recipe.keep.items() for axis in axes}
    own = dict((*traced.model.named_parameters(), *traced.model.named_buffers()))
    return tuple(
        name for name, t in own.items() if name not in traced.graph.state and not cut.isdisjoint(t.shape)
    )


def not_chosen(traced: Traced, recipe: Recipe) -> tuple[str, ...]:
    """Name those of `unread_tensors` that other numbers may choose: the code around them asks for numbers of the input."""
    handed = set(traced.graph.handed)
    modules = {op.source.module for op in traced.graph.ops if op.decides or handed.intersection(op.results)}
    return tuple(
        name
        for name in (unread_tensors(traced, recipe) if modules else ())
        if any(name.startswith(f"{path}." if path else "") for path in modules)
    )


def cut_beside(traced: Traced, recipe: Recipe, names: tuple[str, ...]) -> tuple[Place, ...]:
    """Return the cut axes that are as long as some axis of the named tensors, each where an op reads it first."""
    own = dict((*traced.model.named_parameters(), *traced.model.named_buffers()))
    sizes = {size for name in names for size in own[name].shape}
    graph = traced.graph
    readers: dict[str, Op] = {
        name: graph.users[value][0] for name, value in graph.state.items() if value in graph.users
    }
    return tuple(
        (readers[name].index, graph.state[name], axis)
        for name, axes in recipe.keep.items()
        for axis in axes
        if name in readers and recipe.shapes[name][axis] in sizes
    )

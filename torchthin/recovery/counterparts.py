"""Which product of the dense model a product of the thinned one is fitted to: the same one, but before layers that were left out.

What writes into the residual stream last before such a gap is fitted to what the last layer of the gap would have written there:
sum and all, so that it makes up for the gap. That is ReplaceMe (arXiv 2505.02819) with the whole weight fitted in place of a
square matrix beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torchthin.graph.opgraph import OpGraph
from torchthin.recovery.layers import products
from torchthin.recovery.residuals import Residual
from torchthin.thinning.layer_names import name_after
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class Counterparts:
    """Products by their numbers."""

    of: Mapping[int, int]
    """Product of the thinned model -> the one of the dense model that says what it should give."""
    before_gaps: frozenset[int]
    """Those of the thinned model that make up for layers that were left out."""


def counterparts(
    dense: OpGraph, small: OpGraph, residual: Sequence[Mapping[int, Residual]], recipe: Recipe
) -> Counterparts | None:
    """Return them; None where the two models run other products.

    residual: see `residuals`, of the dense and of the thinned model.
    """
    of_dense, of_small = ([(op.name, op.source.module) for op in products(graph)] for graph in (dense, small))
    stay = [n for n, (_, module) in enumerate(of_dense) if name_after(module, recipe.layers) is not None]
    if [(of_dense[n][0], name_after(of_dense[n][1], recipe.layers)) for n in stay] != of_small:
        return None
    found = dict(enumerate(stay))
    modules = [[module for _, module in each] for each in (of_dense, of_small)]
    gaps = set()
    for last_kept, last_gone in _gaps(recipe):
        before = _last(modules[1], residual[1], last_kept)
        behind = _last(modules[0], residual[0], last_gone)
        if before is None or behind is None:
            continue
        names = modules[1][before].removeprefix(last_kept), modules[0][behind].removeprefix(last_gone)
        if names[0] == names[1]:
            found[before] = behind
            gaps.add(before)
    return Counterparts(found, frozenset(gaps))


def _gaps(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the layer before each gap (its path in the thinned model) and the last one of the gap (in the dense one)."""
    for path, kept in recipe.layers.items():
        after = name_after(path, recipe.layers)
        ends = [*kept[1:], recipe.lengths[path]]
        for new, (old, following) in enumerate(zip(kept, ends, strict=True)):
            if following > old + 1:
                yield f"{after}.{new}".lstrip("."), f"{path}.{following - 1}".lstrip(".")


def _last(modules: Sequence[str], residual: Mapping[int, Residual], path: str) -> int | None:
    """Return the last product in a module whose result is added to something; None where that is not the last of all there."""
    inside = [n for n, module in enumerate(modules) if module == path or module.startswith(f"{path}.")]
    return inside[-1] if inside and inside[-1] in residual else None

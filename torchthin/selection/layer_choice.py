"""Which whole layers are left out: those of least influence, as many of every stack as was asked for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from torchthin.errors import KindError
from torchthin.graph.layers import Layer, Stack
from torchthin.selection.weight_names import matches_any

ENDS_STAY = "the first and the last of a stack stay unless include names them"


def layers_that_may_go(
    stacks: Iterable[Stack], include: Sequence[str] | None, exclude: Sequence[str], weights: Collection[str]
) -> list[tuple[Stack, list[Layer]]]:
    """Return every stack with those of its layers that may be left out.

    Where `include` names layers, these; else (it may name other weights) all but the first and the last of every stack. What
    `exclude` names, or has a weight that it names, stays.
    """
    stacks = list(stacks)
    named = {x.path for stack in stacks for x in stack.layers if matches_any(x.path, include or ())}

    def may_go(layer: Layer, ends: Collection[str]) -> bool:
        if layer.path not in named if named else layer.path in ends:
            return False
        own = [name for name in weights if name.startswith(f"{layer.path}.")]
        return not any(matches_any(name, exclude) for name in (layer.path, *own))

    return [(stack, [layer for layer in stack.layers if may_go(layer, stack.ends)]) for stack in stacks]


def chosen_layers(
    stacks: Iterable[tuple[Stack, Sequence[Layer]]], amount: float, influence: Mapping[str, float]
) -> tuple[Layer, ...]:
    """Return the layers that are left out, in the order in which they run.

    Args:
        stacks: all of the model, each with those of its layers that may go.
        amount: below 1 a share of the layers of every stack, rounded down; else how many of every stack.
        influence: path -> what goes first has least; ties go by order.

    Raises:
        KindError: less than one layer is asked for, or more than may go.
    """
    found, sizes = list[Layer](), list[str]()
    for stack, candidates in stacks:
        size = len(stack.layers)
        count = math.floor(amount * size) if amount < 1 else int(amount)
        sizes.append(f"{size} of {stack.name}")
        if count > len(candidates):
            raise KindError(
                f"The ratio layers={amount:g} (--ratio) asks for {count} of the {size} layers of {stack.name}, and "
                f"{len(candidates)} can go ({ENDS_STAY}). Ask for less."
            )
        least = sorted(candidates, key=lambda layer: influence[layer.path])[:count]
        found += [layer for layer in stack.layers if layer in least]
    if not found:
        raise KindError(
            f"The ratio layers={amount:g} (--ratio) is less than one layer: the model has {', '.join(sizes)}. Ask for more, or "
            "for a number of layers, such as layers=1."
        )
    return tuple(found)

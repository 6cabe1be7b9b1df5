"""The walk along a recorded forward pass, from the input to the outputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import nn

from torchthin.errors import ConfigError, InputError
from torchthin.graph.inputs import Inputs
from torchthin.graph.opgraph import BRANCH, Op, OpGraph
from torchthin.graph.trace import trace
from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.layer import INPUT
from torchthin.max7800x.mapping import rules
from torchthin.max7800x.mapping.feature_map import ChipMapping, Features, Origin, Outside
from torchthin.max7800x.mapping.gaps import with_copies
from torchthin.max7800x.mapping.layer_builder import Draft, Unmappable
from torchthin.max7800x.mapping.module_settings import Scopes
from torchthin.max7800x.mapping.registry import Call, Tracked, apply_rule

__all__ = ["map_model", "rules"]
WEIGHT_BITS = (1, 2, 4, 8)


def map_model(model: nn.Module, inputs: Inputs, chip: Chip, weight_bits: int = 8) -> ChipMapping:
    """Return the layers that `model` becomes on `chip`; the model is left as it is.

    Args:
        model: any model; layers that the chip cannot run are named in the result.
        inputs: one example (N, C, H, W) or (N, C, L); sizes count, values and N do not.
        chip: where it shall run.
        weight_bits: of layers that do not say it themselves.

    Raises:
        InputError: the model does not run on the inputs, or takes other than one tensor of 3 or 4 axes.
    """
    if weight_bits not in WEIGHT_BITS:
        raise ConfigError(f"The weight_bits of a chip must be 1, 2, 4 or 8. Got {weight_bits!r}.")
    graph = trace(model, inputs).graph
    draft = Draft()
    known: dict[int, Tracked] = {graph.inputs[0]: _first(graph)}
    reads = _reads(graph)
    scopes = Scopes(model, weight_bits)
    parameters = _parameters(graph)
    makers: dict[int, int] = {}
    for op in graph.ops:
        if op.index >= BRANCH or not any(ref.value in known for ref in op.inputs()):
            continue
        call = Call(op, draft, chip, scopes, known, graph.values, parameters)
        result = apply_rule(call)
        if isinstance(result, Features) and op.index >= 0:  # a copy has the numbers of what it copies
            draft.done(result, op.index)
        for position, ref in enumerate(op.outputs):
            if ref is not None:
                if op.index >= 0:
                    makers[ref.value] = op.index
                shared = reads[ref.value] > 1
                known[ref.value] = _noted(result, shared) if not position else _second(op, result)
    ends = [number for number in graph.outputs if number in known]
    outside, outputs = _finish(draft, [known[number] for number in ends], [makers.get(n) for n in ends])
    layers, origin = with_copies(draft.layers, chip)
    copies = tuple(
        f"{layer.name}: the chip needs it, pixel by pixel beside the other operand"
        for layer, number in zip(layers, origin, strict=True)
        if number is None
    )
    weights = tuple(None if number is None else draft.weights[number] for number in origin)
    return ChipMapping(
        layers,
        weights,
        tuple(draft.problems),
        outside,
        (*draft.notes, *copies),
        tuple(Origin() if number is None else draft.origin(number) for number in origin),
        tuple(place for place, number in enumerate(origin) if number in outputs),
    )


def _first(graph: OpGraph) -> Features:
    """Return what is known of the model's input."""
    numbers = [
        number
        for number in graph.inputs
        if any(ref.value == number for op in graph.ops for ref in op.inputs())
    ]
    shape = graph.values[graph.inputs[0]].shape
    if len(set(numbers)) > 1 and not graph.branched:
        raise InputError(f"A chip takes one input tensor. The model reads {len(set(numbers))}.")
    if len(shape) not in (3, 4):
        raise InputError(
            f"The input of a chip must have the axes (N, C, H, W) or (N, C, L). Got the shape {tuple(shape)}."
        )
    size = (shape[2], shape[3] if len(shape) == 4 else 1)
    return Features((INPUT,), (0,), shape[1], size, sequence=len(shape) == 3, where="input")


def _reads(graph: OpGraph) -> Counter[int]:
    """Count how often each value is read, by operators that do not write to it and as an output."""
    found = Counter(graph.outputs)
    for op in graph.ops:
        if op.index < BRANCH:
            written = {ref.value for ref in op.written()}
            found.update(set(op.reads) - written)
    return found


def _parameters(graph: OpGraph) -> dict[int, str]:
    """Return for values that are computed from parameters the one of them that has as many entries and axes."""
    names: dict[int, set[str]] = {number: {name} for name, number in graph.state.items()}
    for op in graph.ops:
        given = set().union(*(names.get(ref.value, set()) for ref in op.inputs()))
        for ref in op.outputs:
            if ref is not None and given:
                names.setdefault(ref.value, set()).update(given)
    shapes = {name: graph.values[number].shape for name, number in graph.state.items()}
    found = {}
    for number, origin in names.items():
        like = [name for name in origin if sorted(shapes[name]) == sorted(graph.values[number].shape)]
        if len(like) == 1:
            found[number] = like[0]
    return found


def _noted(result: Tracked, shared: bool) -> Tracked:
    if isinstance(result, Outside) or result.plain:
        return result
    return replace(result, shared=result.shared or shared)


def _second(op: Op, result: Tracked) -> Tracked:
    """Second results are indices of pooling and statistics: no layer can read them."""
    behind = result.behind if isinstance(result, Outside) else (result,)
    where = op.source.module or "forward"
    return Outside(f"{where}: a second result of {op.name.removeprefix('aten.')}", behind)


def _finish(
    draft: Draft, outputs: list[Tracked], makers: list[int | None]
) -> tuple[tuple[str, ...], set[int]]:
    """Let what is pending at the outputs be done; return what the host computes, and the layers it gets."""
    outside, ends = [], set[int]()
    for output, maker in zip(outputs, makers, strict=True):
        if isinstance(output, Outside):
            outside.append(output.reason)
        for features in output.behind if isinstance(output, Outside) else (output,):
            joined = len(features.sources) > 1 and features.eltwise is None and features.pool is None
            try:
                settled = features if joined else draft.settle(features)
                draft.take(settled)
                ends.update(settled.sources)
                if output is features and maker is not None:
                    draft.done(settled, maker)
            except Unmappable as error:
                draft.report(f"{features.where}: {error}")
    return tuple(reason for reason in dict.fromkeys(outside) if reason not in draft.problems), ends

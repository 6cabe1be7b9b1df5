"""How far the outputs move when channels are removed and their consumers refitted: the dense model is run, nothing is thinned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from torch import Tensor, nn

from torchthin.dependency.propagate import Labels
from torchthin.evaluation.distance import DenseOutputs, floating
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import by_name
from torchthin.graph.opgraph import Ref
from torchthin.graph.parametrized import DerivedWeight
from torchthin.importance.product_rows import Product
from torchthin.importance.refits import Change, Refits
from torchthin.importance.statistics import Measure, MeasuredGroups
from torchthin.importance.used_rows import in_parts
from torchthin.selection.selection import Keeps
from torchthin.selection.selectors import Candidates

FEW = 32
"""Inputs that a choice is first judged on."""
MANY = 128
"""Inputs at most that judge the best ones; they are not fitted."""
HELD_OUT = 4
"""One of so many inputs is held out at most."""


@dataclass
class RefittedOutputs:
    """Distances to the dense outputs for any choice of channels, each worked out once."""

    fitted: Measure
    """The model on the inputs that consumers are refitted to."""
    judging: tuple[Inputs, ...]
    """Others; the first ones judge every choice."""
    _refits: Refits = field(default_factory=Refits)
    _dense: dict[bool, DenseOutputs] = field(default_factory=dict)
    """Whether a few inputs are enough -> outputs on them."""
    _signatures: tuple[Labels, dict[str, bytes]] | None = None
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: nn.Module, batches: Sequence[Inputs], derived: Mapping[str, DerivedWeight]
    ) -> RefittedOutputs:
        """Hold out the last inputs where there are enough to tell them apart."""
        parts = [part for batch in batches for part in in_parts(batch, FEW)]
        held_out = min(len(parts) // HELD_OUT, MANY // FEW)
        fitted, judging = (parts[:-held_out], parts[-held_out:]) if held_out else (batches, parts)
        return cls(Measure(model, tuple(fitted), derived), tuple(judging))

    def distance(self, among: Candidates, keeps: Keeps, *, quick: bool) -> float:
        """Return the distance, on a few inputs or on more. keeps: groups that are not named are whole."""
        groups = self.fitted.at(among.grouping, among.labels, among.axes)
        signatures = self._signatures_of(groups, among)
        chosen = [(g, signatures[g.name], keeps[g.name]) for g in among.groups if g.name in keeps]
        key = (quick, *(part for _, signature, keep in chosen for part in (signature, keep.tobytes())))
        if key not in self._known:
            if quick not in self._dense:
                self._dense[quick] = DenseOutputs.of(self._outputs(among.labels, {}, quick))
            outputs = self._outputs(among.labels, self._refits.together(groups, chosen), quick)
            self._known[key] = self._dense[quick].distance(outputs)
        return self._known[key]

    def _signatures_of(self, groups: MeasuredGroups, among: Candidates) -> dict[str, bytes]:
        """Return what tells a choice of channels from others, also where groups are found once more."""
        if self._signatures is None or self._signatures[0] is not among.labels:
            made = {group.name: sha256(groups.signature(group)).digest() for group in among.groups}
            self._signatures = among.labels, made
        return self._signatures[1]

    def _outputs(self, labels: Labels, changes: dict[int, Change], quick: bool) -> Iterator[list[Tensor]]:
        model = self.fitted.model
        for inputs in self.judging[:1] if quick else self.judging:
            with evaluation_mode(model), following(model, _ChangedMode(labels, changes)):
                yield floating(call(model, inputs))


class _ChangedMode(CountingMode):
    """Runs operators that sum over channels as changes say."""

    def __init__(self, labels: Labels, changes: dict[int, Change]) -> None:
        super().__init__(0, labels.graph.call_sites[0])
        self._ops = {op.index: op for op in labels.graph.ops if op.index in changes}
        self._labels, self._changes = labels, changes

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the op, with another weight or with zeros in place of what is removed."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is None or op.target is not func:
            return func(*args, **kwargs)
        change = self._changes[op.index]
        if change.weight is not None and change.shift is not None:
            return _refitted(Product.of(func, args, kwargs), change.weight, change.shift, change.removed)
        item = self._labels.contractions[op.index]
        name = next(n for n, a in op.arguments.items() if isinstance(a, Ref) and a.value == item.data)
        data: Tensor = by_name(func, args, kwargs)[name]
        removed = change.removed.to(data.device)
        shape = [-1 if axis == item.data_axis % data.dim() else 1 for axis in range(data.dim())]
        zeroed = data.masked_fill(removed.reshape(shape), 0)
        return func(*(zeroed if arg is data else arg for arg in args), **kwargs)


def _refitted(product: Product, change: Tensor, shift: Tensor, removed: Tensor) -> Tensor:
    """Return what a product gives with a weight without the removed columns."""
    weight = product.weight.flatten(1) + change.to(product.weight)
    taps = weight.shape[1] // len(removed)
    weight[:, removed.repeat_interleave(taps).to(weight.device)] = 0
    added = shift.to(weight) if product.bias is None else product.bias + shift.to(weight)
    if product.options is None:  # addmm scales what is added; a plain product takes no bias
        return replace(product, weight=weight).run() + shift.to(weight)
    return replace(product, weight=weight.reshape(product.weight.shape), bias=added).run()

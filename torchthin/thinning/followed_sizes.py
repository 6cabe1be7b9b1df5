"""Integers that modules keep and that the code uses as sizes: what each must become when axes are cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from torchthin.graph.kept_integers import kept_value
from torchthin.graph.opgraph import SizeUse
from torchthin.graph.tracked import Attribute, AxisSize, Formula, attributes_in, evaluate
from torchthin.thinning.attributes import has_known_sizes
from torchthin.thinning.survivors import Survivors


@dataclass(frozen=True)
class _Demand:
    """What a formula must give."""

    formula: Formula
    reads: frozenset[Attribute]
    before: int
    after: int


def followed_sizes(
    uses: Iterable[SizeUse], survivors: Survivors, modules: Mapping[str, nn.Module]
) -> dict[Attribute, int]:
    """Return the integers that must change, with their new values; none for which two uses want different ones."""
    return _Search(uses, survivors, modules).changed()


class _Search:
    """Looks for values that give every use what is left of its axis."""

    def __init__(
        self, uses: Iterable[SizeUse], survivors: Survivors, modules: Mapping[str, nn.Module]
    ) -> None:
        self._survivors = survivors
        self._modules = modules
        self._new: dict[Attribute, int] = {}
        self._demands = [self._demand(use) for use in uses if use.value in survivors.labels.values]
        self._of: dict[Attribute, list[_Demand]] = {}
        for demand in self._demands:
            for attribute in demand.reads:
                self._of.setdefault(attribute, []).append(demand)

    def changed(self) -> dict[Attribute, int]:
        """Return the integers that change. Those that have a use of their own come first."""
        for alone in (True, False):
            for attribute, demands in self._of.items():
                own = [item for item in demands if len(item.reads) == 1 or not alone]
                if attribute not in self._new and not self._is_tabled(attribute) and not self._met(own):
                    self._choose(attribute, own)
        return {attribute: size for attribute, size in self._new.items() if size != self._before(attribute)}

    def _choose(self, attribute: Attribute, demands: list[_Demand]) -> None:
        for candidate in self._candidates(attribute, demands):
            self._new[attribute] = candidate
            if candidate > 0 and self._met(demands):
                return
        self._new.pop(attribute, None)

    def _candidates(self, attribute: Attribute, demands: list[_Demand]) -> Iterator[int]:
        before = self._before(attribute)
        for demand in demands:
            if demand.before:
                yield before * demand.after // demand.before
            yield before + demand.after - demand.before

    def _met(self, demands: list[_Demand]) -> bool:
        return all(evaluate(item.formula, self._size) == item.after for item in demands)

    def _is_tabled(self, attribute: Attribute) -> bool:
        """Whether the sizes of a module type say what an integer becomes."""
        return has_known_sizes(self._modules[attribute.module])

    def _before(self, attribute: Attribute) -> int:
        return int(kept_value(self._modules[attribute.module], attribute.path))

    def _size(self, leaf: Attribute | AxisSize) -> int:
        if isinstance(leaf, AxisSize):
            return self._left(leaf.value, leaf.axis)
        return self._new[leaf] if leaf in self._new else self._before(leaf)

    def _left(self, value: int, axis: int, start: int = 0, stop: int | None = None) -> int:
        kept = self._survivors.along(value, axis)
        if kept is not None:
            return int(kept[start:stop].sum())
        return len(range(self._survivors.labels.graph.values[value].shape[axis])[start:stop])

    def _demand(self, use: SizeUse) -> _Demand:
        shape = self._survivors.labels.graph.values[use.value].shape
        before = len(range(shape[use.axis])[use.start : use.stop])
        after = self._left(use.value, use.axis, use.start, use.stop)
        return _Demand(use.formula, frozenset(attributes_in(use.formula)), before, after)

"""Which group loses how much when a scan says what it costs: the least loss in all that reaches the budgets.

Losses of groups are taken to add up. Their curves are made convex, so that going on where a step costs least for what it
saves, as long as the budgets are exceeded, is the best choice among the corners of the curves (greedy on the marginal loss
per parameter and MAC; Everett 1963 shows why). What was saved beyond the budget is then given back.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError
from torchthin.selection.budget import ByBudget, Keeps
from torchthin.selection.channels import least_kept, lowest, prune_count
from torchthin.selection.selectors import BoolArray, FloatArray
from torchthin.selection.sensitivity_table import Sensitivity

_STEPS = 32
"""Steps in which a group goes from whole to its floor."""


def by_allocation(how: ByBudget, table: Sensitivity) -> ByAllocation:
    """Return a decision within the same budgets that spreads the cut as `table` says."""
    return ByAllocation(**{each.name: getattr(how, each.name) for each in fields(how)}, table=table)


@dataclass
class ByAllocation(ByBudget):
    """A decision by measured loss: within the budgets at the least sum of losses."""

    table: Sensitivity = field(kw_only=True)

    def _searched(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> Keeps:
        """Take the step that costs least for what it saves, until the budgets hold."""
        curves = {group.name: _Curve.of(group, self.table) for group in groups}
        keeps: Keeps = {group.name: lowest(group, scores[group.name], 0) for group in groups}
        heap: list[tuple[float, int, int]] = []
        steps = [self._steps(group, scores[group.name]) for group in groups]
        at = [0] * len(groups)

        def rate(number: int) -> float | None:
            """Loss for each saved share of the budgets of a group's next step; None: there is none, or it saves nothing."""
            if at[number] + 1 >= len(steps[number]):
                return None
            group = groups[number]
            low, high = steps[number][at[number]], steps[number][at[number] + 1]
            saved = excess - self._excess({**keeps, group.name: self._lowest(group, scores, high)})
            return (curves[group.name].loss(high) - curves[group.name].loss(low)) / max(saved, 1e-12)

        excess = self._excess(keeps)
        for number in range(len(groups)):
            first = rate(number)
            if first is not None:
                heapq.heappush(heap, (first, number, 0))
        while excess > 0 and heap:
            _, number, version = heapq.heappop(heap)
            if version != at[number]:
                continue
            now = rate(number)  # what a step saves shrinks as its neighbours do: rates only grow
            if now is None:
                continue
            if heap and now > heap[0][0]:
                heapq.heappush(heap, (now, number, version))
                continue
            at[number] += 1
            group = groups[number]
            keeps[group.name] = self._lowest(group, scores, steps[number][at[number]])
            excess = self._excess(keeps)
            following = rate(number)
            if following is not None:
                heapq.heappush(heap, (following, number, at[number]))
        return keeps

    def _lowest(self, group: Group, scores: Mapping[str, FloatArray], count: int) -> BoolArray:
        return lowest(group, scores[group.name], count, self.round_to)

    def _steps(self, group: Group, scores: FloatArray) -> list[int]:
        """Return the counts of lost channels that are looked at, from 0 to what the floor allows."""
        most = group.size - least_kept(self.keep_at_least, group.size)
        counts = {round(most * step / _STEPS) for step in range(_STEPS + 1)}
        if self.round_to > 1:  # two counts that round to one would be a step that saves nothing
            counts = {int((~lowest(group, scores, count, self.round_to)).sum()) for count in counts}
        return sorted(counts)

    def _excess(self, keeps: Keeps) -> float:
        """Return how far the budgets are exceeded, as shares of the limits, and how many channels are still to go."""
        assert self.ledger is not None
        spent = self.ledger.spent(keeps)
        over = sum(
            max(0, spent.of(name) + self.reserve.get(name, 0) - limit) / max(limit, 1)
            for name, limit in self.limits.items()
        )
        channels, gone = _counted(keeps)
        return over + max(0, prune_count(self.target_sparsity, channels) - gone) / max(channels, 1)

    def _enough(self, keeps: Keeps, asked: Keeps) -> bool:
        """Whether `target_sparsity` of all channels together goes."""
        channels, gone = _counted(keeps)
        return gone >= prune_count(self.target_sparsity, channels)

    def _worth(self, group: Group, scores: FloatArray, keep: BoolArray, wider: BoolArray) -> float:
        """Return the loss that giving channels back takes away."""
        curve = _Curve.of(group, self.table)
        return curve.loss(int((~keep).sum())) - curve.loss(int((~wider).sum()))


def _counted(keeps: Keeps) -> tuple[int, int]:
    """Return how many channels there are, and how many of them go."""
    return sum(keep.size for keep in keeps.values()), sum(int((~keep).sum()) for keep in keeps.values())


@dataclass(frozen=True)
class _Curve:
    """The convex curve of one group: straight between corners, and on beyond the last one."""

    corners: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, group: Group, table: Sensitivity) -> _Curve:
        found = table.curve(group.name)
        if found is None or found.size != group.size:
            known = ", ".join(curve.name for curve in table.groups[:4])
            raise ConfigError(
                f"The allocation knows no group {group.name} of {group.size} channels (it has {known}, ...): it was made for "
                "another model or other weights to prune. Run torchthin sensitivity again."
            )
        return cls(found.hull())

    def loss(self, gone: int) -> float:
        """Return the loss with `gone` channels masked."""
        corners = self.corners
        if len(corners) == 1:
            return 0.0
        segment = min(bisect_left([x for x, _ in corners], gone, 1), len(corners) - 1)
        (x0, y0), (x1, y1) = corners[segment - 1], corners[segment]
        return y0 + (y1 - y0) * (gone - x0) / (x1 - x0)

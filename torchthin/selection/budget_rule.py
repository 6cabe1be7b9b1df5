"""The largest model within a budget of parameters, multiply-accumulates and time.

The least ratio that reaches the budget is found by bisection, since selections are nested; with measured losses the groups
lose channels where that costs least instead. Then channels are given back, the most important first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from torchthin.config import Budget
from torchthin.dependency.groups import Group
from torchthin.errors import BudgetError, TargetMissedError
from torchthin.graph.cost import Cost
from torchthin.selection.allocator import Allocator, Levels
from torchthin.selection.channels import least_kept, lowest, prune_count, select_channels
from torchthin.selection.cost_model import CostModel, Counts
from torchthin.selection.kernel_widths import block_of
from torchthin.selection.kind_choice import evened
from torchthin.selection.layer_times import LayerTimes
from torchthin.selection.level_search import OutputDistance, curves, searched
from torchthin.selection.selection import BoolArray, Keeps
from torchthin.selection.selectors import Candidates, FloatArray
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity

_HALVINGS = 40
"""Of the interval in which the ratio lies: beyond the digits that any count of channels shows."""
_NAMED = 3
"""Layers that are named where a latency is missed."""
_STEPS = 32
"""Steps in which a group goes from whole to its floor where losses decide."""


class ForecastMissedError(TargetMissedError):
    """By the times of single layers no selection is fast enough; what the whole model takes was not measured."""

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message)
        self.least = least
        """Nanoseconds that are foretold where every group keeps its floor."""


@dataclass(frozen=True)
class BudgetRule:
    """Remove as little as a budget allows."""

    target: Budget
    whole: Cost
    """Of the model as it is."""
    shares: Mapping[int, Fraction]
    """Of the cost of every op on the example, see `torchthin.graph.cost.shares_of_sample`."""
    losses: Sensitivity | None = None
    """What groups lose, measured; None: every group loses the same share, or by score with scope="global"."""
    outputs: OutputDistance | None = None
    """Measures what groups lose together; None: their losses add up."""
    reserve: Mapping[str, int] = field(default_factory=dict)
    """What thinning was seen to add (biases that absorb constants): it is left free."""
    times: LayerTimes | None = None
    """Measured, where the target has a latency."""

    @property
    def limits(self) -> dict[str, int]:
        """``parameters``, ``macs`` and ``latency`` -> the most that is allowed, where it was asked."""
        latency = 0 if self.times is None else round(self.times.whole)
        whole = Counts(self.whole.parameters, self.whole.macs, latency)
        return {name: limit.of(whole.of(name)) for name, limit in self.target.limits.items()}

    def choose(self, among: Candidates) -> tuple[Keeps, Counts]:
        """Return the selection and what the thinned model costs with it.

        Raises:
            BudgetError: the budget asks for less than is left when every group keeps its floor.
            TargetMissedError: the latency does, by the times that were measured.
        """
        rule = self if self.outputs is None else replace(self, losses=curves(among, self.outputs))
        search = _Search(
            rule,
            among,
            CostModel(among.model, among.labels, among.grouping, self.whole, self.shares, self.times),
        )
        least = search.least()
        if not search.fits(least) or not search.is_enough(least):
            refusal = self._refusal(least, search.cost(least), search.costs.whole)
            if search.late(least):
                message = f"{refusal} {held(search.costs.slowest(least))}"
                raise ForecastMissedError(message, search.cost(least).latency)
            raise BudgetError(refusal)
        keeps = search.uniform() if rule.losses is None else search.by_losses()
        keeps = search.given_back(keeps)
        return keeps, search.cost(keeps)

    def _refusal(self, keeps: Keeps, least: Counts, whole: Counts) -> str:
        counts = {name: least.of(name) + self.reserve.get(name, 0) for name in self.limits}
        units = {"parameters": "parameters", "macs": self.whole.unit}
        parts = [
            f"{f'{count:,} {units[name]}' if name in units else f'{count / 1e6:.4g} ms'} "
            f"({count / max(whole.of(name), 1):.3f}x)"
            for name, count in counts.items()
        ]
        channels, removed = _counted(keeps)
        if self.target.ratio:
            parts.append(f"{removed} of {channels} channels removed (asked {self.target.ratio:g})")
        floor = self.target.floor
        kept = f"{floor:g} of every group is kept" if floor else "one channel of every group is kept"
        measured = ", and no group loses more than was measured" if self.losses is not None else ""
        return (
            f"The budget cannot be reached: asked {self.asked}, the least is {' and '.join(parts)}, where {kept}{measured}. "
            f"Ask for more, {'measure higher ratios, ' if measured else ''}or see with torchthin inspect what is frozen."
        )

    @property
    def asked(self) -> str:
        """The budget in words."""
        return ", ".join(f"{name} of {limit.text}" for name, limit in self.target.limits.items())


@dataclass(frozen=True)
class _Search:
    """One search for a selection within the budget."""

    rule: BudgetRule
    among: Candidates
    costs: CostModel

    @property
    def _target(self) -> Budget:
        return self.rule.target

    def cost(self, keeps: Keeps) -> Counts:
        return self.costs.cost(keeps)

    def fits(self, keeps: Keeps) -> bool:
        cost, reserve = self.cost(keeps), self.rule.reserve
        return all(cost.of(name) + reserve.get(name, 0) <= limit for name, limit in self.rule.limits.items())

    def late(self, keeps: Keeps) -> bool:
        """Whether nothing but the latency is above its limit."""
        limit = self.rule.limits.get("latency")
        return limit is not None and self.is_enough(keeps) and self.cost(keeps).latency > limit

    def is_enough(self, keeps: Keeps) -> bool:
        """Whether the target's ratio of all channels is removed, where losses say of which groups."""
        channels, removed = _counted(keeps)
        return self.rule.losses is None or removed >= prune_count(self._target.ratio, channels)

    def least(self) -> Keeps:
        """Return what is kept at least."""
        return {unit.group.name: unit.keep(unit.most) for unit in self._units}

    @cached_property
    def _units(self) -> list[_GroupUnit]:
        if self.rule.losses is not None:
            self.rule.losses.check_is_of([group.name for group in self.among.groups])
        return [self._unit(group) for group in self.among.groups]

    def _unit(self, group: Group) -> _GroupUnit:
        target, losses = self._target, self.rule.losses
        most, curve = group.size - least_kept(target.floor, group.size), None
        if losses is not None:
            measured = losses.curve_of(group.name, group.size)
            most, curve = min(most, measured.most), _convex_loss(measured)
        times = self.rule.times
        block = 1 if times is None else block_of(group.size, times.kernel)
        return _GroupUnit(group, self.among.scores[group.name], target.multiple, most, curve, block)

    def _at(self, ratio: float) -> Keeps:
        target = self._target
        keeps = select_channels(
            self.among.groups,
            self.among.scores,
            ratio,
            target.scope,
            keep_at_least=target.floor,
            absolute=self.among.ranking.absolute,
            round_to=target.multiple,
        )
        kinds = self.among.chosen.kinds
        return (
            evened(self.among.groups, keeps, self.among.scores, kinds, target.multiple)
            if target.even
            else keeps
        )

    def uniform(self) -> Keeps:
        """Return the selection at the least ratio that fits; selections are nested, so costs fall with it."""
        low, high = self._target.ratio, 1 - 1e-9
        keeps = self._at(low)
        if self.fits(keeps):
            return keeps
        best = self._at(high)
        if not self.fits(best):  # equal numbers from parts end a little earlier than the floors do
            best = self.least()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            keeps = self._at(middle)
            if self.fits(keeps):
                best, high = keeps, middle
            else:
                low = middle
        return best

    def by_losses(self) -> Keeps:
        """Return the selection that loses least, by the losses measured, within the budget."""

        def excess(levels: Levels) -> float:
            keeps = self._keeps(levels)
            cost, reserve = self.cost(keeps), self.rule.reserve
            over = sum(
                max(0, cost.of(name) + reserve.get(name, 0) - limit) / max(limit, 1)
                for name, limit in self.rule.limits.items()
            )
            channels, removed = _counted(keeps)
            return over + max(0, prune_count(self._target.ratio, channels) - removed) / max(channels, 1)

        levels = Allocator(self._units, excess).descend_convex()
        outputs = self.rule.outputs
        if outputs is None or excess(levels) > 0:
            return self._keeps(levels)

        def fitness(levels: Levels, quick: bool) -> float:
            return outputs.distance(self.among, self._keeps(levels), quick=quick)

        return self._keeps(searched(levels, [unit.steps for unit in self._units], excess, fitness))

    def _keeps(self, levels: Levels) -> Keeps:
        return {unit.group.name: unit.keep(count) for unit, count in zip(self._units, levels, strict=True)}

    @property
    def _together(self) -> list[tuple[_GroupUnit, ...]]:
        """Return the groups that keep equal numbers, those of one kind and size of an even target; else each by itself."""
        kinds = self.among.chosen.kinds
        found: dict[object, list[_GroupUnit]] = {}
        for unit in self._units:
            name, size = unit.group.name, unit.group.size
            found.setdefault((kinds.get(name, ""), size) if self._target.even else name, []).append(unit)
        return [tuple(units) for units in found.values()]

    def given_back(self, keeps: Keeps) -> Keeps:
        """Return `keeps` with channels given back while the budget holds: rounds, a group's best channel in each."""
        now = dict(keeps)
        asked = self._at(self._target.ratio)
        left = self._together
        while left:
            offers = []
            for units in left:
                level = int((~now[units[0].group.name]).sum())
                for wider in _wider(units, level):
                    worth = sum(self._worth(u, now[u.group.name], wider[u.group.name]) for u in units)
                    offers.append((worth / len(units), units, wider))
            left = []
            for _, units, wider in sorted(offers, key=lambda offer: -offer[0]):
                tried = {**now, **wider}
                if self._enough(tried, asked) and self.fits(tried):
                    now = tried
                    left.append(units)
        return now

    def _worth(self, unit: _GroupUnit, keep: BoolArray, wider: BoolArray) -> float:
        """Return the loss or importance that comes back, in units of the mean of the group where groups do not compare."""
        if unit.curve is not None:
            return unit.loss(int((~keep).sum())) - unit.loss(int((~wider).sum()))
        gained, mean = float(unit.scores[wider & ~keep].sum()), float(unit.scores.mean())
        return gained if self.among.ranking.absolute or mean <= 0 else gained / mean

    def _enough(self, keeps: Keeps, asked: Keeps) -> bool:
        """Whether at least as much is removed as the target's ratio alone would remove."""
        if self.rule.losses is not None:
            return self.is_enough(keeps)
        counts = [(int((~keep).sum()), int((~asked[name]).sum())) for name, keep in keeps.items()]
        if self._target.scope == "global":
            return sum(now for now, _ in counts) >= sum(least for _, least in counts)
        return all(now >= least for now, least in counts)


@dataclass(frozen=True)
class _GroupUnit:
    """A group as a unit of the allocator: its level is the number of channels removed."""

    group: Group
    scores: FloatArray
    round_to: int
    most: int
    """Channels that may be removed."""
    curve: Callable[[int], float] | None
    """Channels removed -> loss, where it was measured."""
    block: int = 1
    """Channels that kernels work on together: widths between their multiples save no time."""

    def loss(self, level: int) -> float:
        """Return what the group loses."""
        return 0.0 if self.curve is None else self.curve(level)

    def keep(self, count: int) -> BoolArray:
        """Return which channels are kept when the `count` lowest are removed, as far as balances and rounding allow."""
        return lowest(self.group, self.scores, count, self.round_to)

    @cached_property
    def steps(self) -> list[int]:
        """Numbers of removed channels, ascending, in which the group goes from whole to its floor."""
        counts = {round(self.most * step / _STEPS) for step in range(_STEPS + 1)}
        if self.block > 1:
            size, block = self.group.size, self.block
            counts = {
                min(max(size - round((size - count) / block) * block, 0), self.most) for count in counts
            }
        if (
            self.round_to > 1 or self.group.multiple > 1
        ):  # two counts that round to one would be a step that saves nothing
            counts = {int((~self.keep(count)).sum()) for count in counts}
        return sorted(counts)

    def narrower(self, level: int) -> Sequence[int]:
        """Return the next step."""
        return [count for count in self.steps if count > level][:1]

    def wider(self, level: int) -> Sequence[int]:
        """Return the next smaller number of removed channels that balances and rounding allow."""
        found = _wider([self], level)
        return [int((~found[0][self.group.name]).sum())] if found else []


def _wider(units: Sequence[_GroupUnit], level: int) -> list[Keeps]:
    """Return what groups keep at the next smaller number of removed channels that balances and rounding allow all of them."""
    for count in range(level - 1, -1, -1):
        keeps = {unit.group.name: unit.keep(count) for unit in units}
        removed = {int((~keep).sum()) for keep in keeps.values()}
        if len(removed) == 1 and max(removed) < level:
            return [keeps]
    return []


def held(slowest: Sequence[tuple[str, float]]) -> str:
    """Return in words which layers take most of the time."""
    named = ", ".join(f"{name} {nanoseconds / 1e6:.3g} ms" for name, nanoseconds in slowest[:_NAMED])
    return f"Most time is left in {named}." if named else "No layer's time depends on its width."


def _counted(keeps: Keeps) -> tuple[int, int]:
    """Return how many channels there are, and how many of them are removed."""
    return sum(keep.size for keep in keeps.values()), sum(int((~keep).sum()) for keep in keeps.values())


def _convex_loss(curve: GroupCurve) -> Callable[[int], float]:
    """Return the convex curve of a group: straight between corners. It is asked for what was measured only."""
    corners = curve.hull()

    def loss(removed: int) -> float:
        if len(corners) == 1:
            return 0.0
        segment = min(bisect_left([x for x, _ in corners], removed, 1), len(corners) - 1)
        (x0, y0), (x1, y1) = corners[segment - 1], corners[segment]
        return y0 + (y1 - y0) * (removed - x0) / (x1 - x0)

    return loss

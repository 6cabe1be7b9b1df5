"""Which channels are removed when a chip chooses: those that save most there for their importance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchthin.config.targets import OUTPUTS
from torchthin.dependency.groups import Group
from torchthin.errors import TargetMissedError
from torchthin.max7800x.chips import ChipSpec, chip_named
from torchthin.max7800x.cost.data_memory import place_maps
from torchthin.max7800x.cost.limits import network_violations
from torchthin.max7800x.cost.network import NetworkCost, network_cost
from torchthin.max7800x.cost.widths import WidthModel, useful_widths
from torchthin.max7800x.mapping import ChipMapping, map_runnable
from torchthin.max7800x.report import ChipChange
from torchthin.max7800x.target import Chip
from torchthin.pruning.target_plans import Run
from torchthin.report.sections import Section
from torchthin.selection.allocator import Allocator, Levels
from torchthin.selection.channels import lowest
from torchthin.selection.level_search import OutputDistance, searched
from torchthin.selection.selection import BoolArray, Keeps
from torchthin.selection.selectors import Candidates
from torchthin.thinning.search.trial_loop import ThinningPlan

Outputs = dict[int, int]
"""Layer number -> output channels."""
_STEPS = 4
"""Neighbouring widths that are looked at in one move."""
_CORRECTIONS = 5
"""So often the search is repeated where kernels and feature maps come to lie otherwise than it took for granted."""
_NAMED = 3
"""Layers that are named where a target is missed."""
_MEASURED = 8
"""Widths at most of every unit at which the outputs are measured; the losses between are taken to lie on a line."""
_PASS = 64
"""Inputs of one pass: a width that is a multiple saves more than those just above."""


def thinning_for_chip(target: Chip, run: Run) -> tuple[ThinningPlan, tuple[Section, ...]]:
    """Return a plan, tried and proved, that reaches `target`, and the report's section on the chip.

    Raises:
        ConfigError: the allocation needs data, and there are none.
        InputError: the model does not run on the chip.
        TargetMissedError: the target cannot be reached.
    """
    mapped = map_runnable(run.traced, chip_named(target.name), "its channels cannot be chosen for it")
    outputs = run.refitted_outputs if target.allocation == OUTPUTS else None
    found = run.plan(ChipRule(target, mapped, outputs))
    return found, (found.proposal.selection.facts,)


@dataclass(frozen=True)
class WidthUnit:
    """Channels that are decided about together, at the widths of the chip's grid; a level is the number of a width."""

    widths: tuple[int, ...]
    """Largest first: the full width."""
    lost: tuple[float, ...]
    """Share of the importance that is removed at each width."""
    measured: tuple[float, ...] | None = None
    """How far the outputs move at each width of this unit alone, never falling, where that was measured."""

    def loss(self, level: int) -> float:
        """Return what was measured, else ``-log(share kept)``: the narrower a unit is, the more another channel costs."""
        if self.measured is not None:
            return self.measured[level]
        return -math.log(max(1 - self.lost[level], 1e-12))

    def narrower(self, level: int) -> Sequence[int]:
        """Return a few of the next widths, and all those at which a pass is saved."""
        below = range(level + 1, len(self.widths))
        return [*below[:_STEPS], *(n for n in below[_STEPS:] if self.widths[n] % _PASS == 0)]

    def wider(self, level: int) -> Sequence[int]:
        """Return a few of the next widths."""
        return range(level)[-_STEPS:]


@dataclass(frozen=True)
class _Choice:
    """What one unit of the search is made of."""

    groups: tuple[Group, ...]
    keeps: tuple[tuple[BoolArray, ...], ...]
    """Level -> which channels of each group are kept."""
    removed: tuple[Mapping[int, int], ...]
    """Level -> layer number -> output channels that are removed."""
    unit: WidthUnit


@dataclass(frozen=True)
class ChipRule:
    """Reach a chip's targets at the least importance lost, or where the outputs move least."""

    target: Chip
    mapped: ChipMapping
    outputs: OutputDistance | None = None
    """Measures how far the outputs move; None: importance decides."""

    def choose(self, among: Candidates) -> tuple[Keeps, ChipChange]:
        """Search for widths.

        Raises:
            TargetMissedError: the targets cannot be reached with these groups.
        """
        return _Search(self.target, self.mapped, among, self.outputs).choose()


@dataclass(frozen=True)
class _Search:
    """One search for widths."""

    target: Chip
    mapped: ChipMapping
    among: Candidates
    outputs: OutputDistance | None

    @cached_property
    def _sizes(self) -> ChipSpec:
        return chip_named(self.target.name)

    @cached_property
    def _network(self) -> WidthModel:
        return WidthModel(self.mapped.layers, self._sizes)

    @cached_property
    def _before(self) -> NetworkCost:
        return network_cost(self.mapped.layers, self._sizes)

    def choose(self) -> tuple[Keeps, ChipChange]:
        target, groups, choices = self.target, self.among.groups, self._choices
        channels = sum(group.size for group in groups)
        least = math.ceil(round(target.ratio * channels, 9))

        margins, reached = dict.fromkeys(target.limits, 0), False
        for _ in range(_CORRECTIONS):
            levels, reached = self._descend(least, margins)
            after = network_cost(self._network.layers(self._outputs(levels)), self._sizes)
            over = self._over(after)
            if not reached or not over:
                break
            margins = {name: margin + over.get(name, 0) for name, margin in margins.items()}
        removed = _removed(choices, levels)
        if not reached or over or (target.fit and not after.fits):
            raise self._missed(after, removed / channels if channels else 0.0)
        uniform, share = self._uniform(after.weight_bytes)
        change = ChipChange(
            target.asked, self._before, after, uniform, share, channels, removed, target.ratio
        )
        return {
            **{group.name: np.ones(group.size, np.bool_) for group in groups},
            **self._keeps(levels),
        }, change

    def _descend(self, least: int, margins: Mapping[str, int]) -> tuple[Levels, bool]:
        """Return levels that remove at least so many channels and are below the limits by a margin; whether they are."""
        channels = sum(group.size for group in self.among.groups)

        def excess(levels: Levels) -> float:
            missing = max(0, least - _removed(self._choices, levels))
            return self._excess(levels, margins) + (missing / channels if missing else 0.0)

        allocator = Allocator([choice.unit for choice in self._choices], excess)
        levels = allocator.descend()
        if allocator.excess(levels) > 0:
            return levels, False
        levels = allocator.exchange(allocator.give_back(levels))
        outputs = self.outputs
        if outputs is None:
            return levels, True

        def fitness(levels: Levels, quick: bool) -> float:
            return outputs.distance(self.among, self._keeps(levels), quick=quick)

        widths = [range(len(choice.keeps)) for choice in self._choices]
        return searched(levels, widths, allocator.excess, fitness), True

    def _keeps(self, levels: Levels) -> Keeps:
        """Return what the groups of all units keep at these levels."""
        return {
            group.name: keep
            for choice, level in zip(self._choices, levels, strict=True)
            for group, keep in zip(choice.groups, choice.keeps[level], strict=True)
        }

    def _over(self, cost: NetworkCost) -> dict[str, int]:
        """Return by how much a network is over which limits, with its kernels and feature maps where they come to lie."""
        was = _figures(self._before)
        over = {
            name: _figures(cost)[name] - limit.of(was[name]) for name, limit in self.target.limits.items()
        }
        return {name: math.ceil(amount) for name, amount in over.items() if amount > 0}

    @cached_property
    def _choices(self) -> list[_Choice]:
        """One choice for every group that produces channels of layers on the chip; parts of a concatenation stay equal."""
        groups = self.among.groups
        layers = {group.name: self._layers_of(group) for group in groups}
        bundles = _bundles([group for group in groups if layers[group.name]], layers, self.mapped)
        return [self._choice(bundle) for bundle in bundles]

    def _layers_of(self, group: Group) -> set[int]:
        return {
            number
            for number, weight in enumerate(self.mapped.weights)
            for member in group.members
            if weight == member.parameter and self.among.axes.get(weight) == member.axis
        }

    def _choice(self, groups: tuple[Group, ...]) -> _Choice:
        scores, size = self.among.scores, groups[0].size
        total = sum(float(scores[group.name].sum()) for group in groups)
        found: list[tuple[int, float, tuple[BoolArray, ...]]] = []
        for width in useful_widths(size, self._sizes):
            kept = tuple(lowest(group, scores[group.name], size - width) for group in groups)
            if any(int(keep.sum()) != width for keep in kept):
                continue  # equal numbers must go from parts of the group, and this width does not allow that
            lost = sum(float(scores[g.name][~keep].sum()) for g, keep in zip(groups, kept, strict=True))
            found.append((width, lost / total if total > 0 else 0.0, kept))
        widths, losses, keeps = zip(*found, strict=True)
        removed = tuple(self._removed_at(groups, kept) for kept in keeps)
        return _Choice(groups, keeps, removed, WidthUnit(widths, losses, self._measured(groups, keeps)))

    def _measured(
        self, groups: Sequence[Group], keeps: Sequence[tuple[BoolArray, ...]]
    ) -> tuple[float, ...] | None:
        """Return how far the outputs move at each level of one unit, measured at a few of them."""
        if self.outputs is None:
            return None
        last = len(keeps) - 1
        levels = sorted({round(part * last / _MEASURED) for part in range(_MEASURED + 1)})
        kept = [{group.name: keep for group, keep in zip(groups, keeps[n], strict=True)} for n in levels]
        found = [
            self.outputs.distance(self.among, one, quick=True) if n else 0.0
            for n, one in zip(levels, kept, strict=True)
        ]
        return tuple(np.interp(range(last + 1), levels, np.maximum.accumulate(found)).tolist())

    def _removed_at(self, groups: Sequence[Group], kept: Sequence[BoolArray]) -> dict[int, int]:
        removed: dict[int, int] = {}
        for group, keep in zip(groups, kept, strict=True):
            for member in group.members:
                for number, weight in enumerate(self.mapped.weights):
                    if weight == member.parameter and self.among.axes.get(weight) == member.axis:
                        removed[number] = removed.get(number, 0) + member.removed(keep).size
        return removed

    def _outputs(self, levels: Levels) -> Outputs:
        return self._narrowed([c.removed[level] for c, level in zip(self._choices, levels, strict=True)])

    def _narrowed(self, removed: Sequence[Mapping[int, int]]) -> Outputs:
        """Return the output channels of all layers that lose some."""
        outputs: Outputs = {}
        for counts in removed:
            for number, count in counts.items():
                outputs[number] = outputs.get(number, self.mapped.layers[number].out_channels) - count
        return outputs

    def _excess(self, levels: Levels, margins: Mapping[str, int]) -> float:
        """Return how far the targets are, each as a share of what there was."""
        outputs, before = self._outputs(levels), self._before
        now = {"cycles": self._network.cycles, "kernel_words": self._network.deepest_words}
        was = _figures(before)
        excess = sum(
            max(0, now[name](outputs) + margins[name] - limit.of(was[name])) / was[name]
            for name, limit in self.target.limits.items()
        )
        return excess + (self._misfit(outputs) if self.target.fit and not before.fits else 0.0)

    def _misfit(self, outputs: Outputs) -> float:
        """Return how far the network is from fitting with all feature maps at processor 0."""
        over = self._network.deepest_words(outputs) - self._sizes.kernel_words
        layers = self._network.layers(outputs)
        refused = len(network_violations(layers, self._sizes)) + len(place_maps(layers, self._sizes)[1])
        return max(0, over) / self._sizes.kernel_words + refused

    def _uniform(self, weight_bytes: int) -> tuple[NetworkCost, float]:
        """Return the cost of the smallest uniform cut that leaves at most `weight_bytes`, and its share of the channels."""
        outputs: Outputs = {}
        share = 0.0
        for percent in range(1, 100):
            share = percent / 100
            counts = []
            for choice in self._choices:
                order = [np.arange(group.size, dtype=np.float64) for group in choice.groups]
                kept = [
                    lowest(group, rank, int(share * group.size))
                    for group, rank in zip(choice.groups, order, strict=True)
                ]
                counts.append(self._removed_at(choice.groups, kept))
            outputs = self._narrowed(counts)
            if self._network.weight_bytes(outputs) <= weight_bytes:
                break
        return network_cost(self._network.layers(outputs), self._sizes), share

    def _missed(self, best: NetworkCost, share: float) -> TargetMissedError:
        reached = f"{best.cycles:,} cycles and {best.deepest_words:,} words in the deepest processor"
        if self.target.ratio:
            reached += f" with {100 * share:.1f} % of the channels removed"
        blocked = f" {best.violations[0]}." if self.target.fit and best.violations else ""
        cut = {number for choice in self._choices for number in choice.removed[-1]}
        held = "".join(_held(best, name, cut) for name in self._over(best))
        return TargetMissedError(
            f"The target cannot be reached on {self.target.name}: asked {self.target.asked}, the least found is "
            f"{reached}.{held}{blocked} Ask for less, or see with torchthin inspect which channels are frozen."
        )


def _held(cost: NetworkCost, limit: str, cut: Collection[int]) -> str:
    """Return which layers hold most of what a limit is set for, and of which of them no channel can be removed.

    Args:
        cost: of the narrowest network that was found.
        limit: name of the limit.
        cut: numbers of the layers that can lose channels.
    """
    unit = "cycles" if limit == "cycles" else "words"
    of = {n: layer.cycles if limit == "cycles" else layer.kernel_words for n, layer in enumerate(cost.layers)}
    most = [number for number in sorted(of, key=lambda n: -of[n])[:_NAMED] if of[number]]
    named = (f"{cost.layers[n].name} {of[n]:,}{'' if n in cut else ' (its outputs all stay)'}" for n in most)
    return f" Most {unit} are left in {', '.join(named)}."


def _figures(cost: NetworkCost) -> dict[str, int]:
    """Return what limits are set for, by the name of the limit."""
    return {"cycles": cost.cycles, "kernel_words": cost.deepest_words}


def _removed(choices: Sequence[_Choice], levels: Levels) -> int:
    """Return how many channels are removed at these levels."""
    return sum(
        len(choice.groups) * (choice.unit.widths[0] - choice.unit.widths[level])
        for choice, level in zip(choices, levels, strict=True)
    )


def _bundles(
    groups: Sequence[Group], layers: Mapping[str, set[int]], mapped: ChipMapping
) -> list[tuple[Group, ...]]:
    """Return groups that are decided together: the chip concatenates only parts of equal width."""
    bundles: list[tuple[Group, ...]] = [(group,) for group in groups]
    for layer in mapped.layers:
        if not layer.concatenates:
            continue
        joined = [b for b in bundles if any(layers[group.name] & set(layer.sources) for group in b)]
        if len({group.size for bundle in joined for group in bundle}) == 1:
            bundles = [b for b in bundles if b not in joined] + [tuple(group for b in joined for group in b)]
    return bundles

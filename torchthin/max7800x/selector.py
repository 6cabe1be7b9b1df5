"""Which channels go when a chip decides: the narrowest losses that reach the chip's targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from torch import nn

from torchthin.dependency.groups import Group
from torchthin.errors import InputError, TargetMissedError
from torchthin.graph.inputs import Inputs
from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.data import place_maps
from torchthin.max7800x.cost.goals import Goals
from torchthin.max7800x.cost.grid import useful_widths
from torchthin.max7800x.cost.limits import violations
from torchthin.max7800x.cost.network import NetworkCost, network_cost
from torchthin.max7800x.cost.search import Unit, Widths, search
from torchthin.max7800x.cost.widths import Resized
from torchthin.max7800x.mapping import ChipMapping, map_model
from torchthin.max7800x.report import ChipChange
from torchthin.selection.channels import select_channels
from torchthin.selection.selectors import BoolArray, ByImportance, FloatArray

Outputs = dict[int, int]
"""Layer number -> output channels."""


def by_chip(how: ByImportance, inputs: Inputs, chip: Chip, goals: Goals) -> ByChip:
    """Return a decision like `how` that reaches `goals` on `chip` instead of a sparsity.

    Raises:
        InputError: something of the model does not map or run there; the first reason is named.
    """
    choices = {each.name: getattr(how, each.name) for each in fields(how)}
    return ByChip(**choices, goals=goals, chip=chip, mapped=_map(how.model, inputs, chip))


def _map(model: nn.Module, inputs: Inputs, chip: Chip) -> ChipMapping:
    mapped = map_model(model, inputs, chip)
    found = [*mapped.problems, *(text for layer in mapped.layers for text in violations(layer, chip))]
    if not mapped.layers:
        found = ["no layer of the model runs on the chip"]
    if found:
        more = f" And {len(found) - 1} more: see torchthin chip." if len(found) > 1 else ""
        raise InputError(
            f"The model does not run on {chip.name}, so its channels cannot be chosen for it. {found[0]}.{more}"
        )
    return mapped


@dataclass(frozen=True)
class _Choice:
    """What one unit of the search stands for."""

    groups: tuple[Group, ...]
    keeps: Mapping[int, tuple[BoolArray, ...]]
    """Width -> which channels of each group stay."""
    removed: Mapping[int, Mapping[int, int]]
    """Width -> layer number -> output channels that go."""
    unit: Unit


@dataclass
class ByChip(ByImportance):
    """A decision by importance and cost: a chip's targets at the least importance lost."""

    goals: Goals = field(kw_only=True)
    chip: Chip = field(kw_only=True)
    mapped: ChipMapping = field(kw_only=True)
    change: ChipChange | None = None
    """What the last decision brings."""

    @cached_property
    def _network(self) -> Resized:
        return Resized(self.mapped.layers, self.chip)

    @cached_property
    def _before(self) -> NetworkCost:
        return network_cost(self.mapped.layers, self.chip)

    def select(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
        """Search for widths.

        Raises:
            TargetMissedError: the targets cannot be reached with these groups.
        """
        choices = self._choices(groups, scores)
        channels = sum(group.size for group in groups)
        asked = math.ceil(round(self.goals.sparsity * channels, 9))

        def excess(widths: Widths) -> float:
            missing = max(0, asked - _gone(choices, widths))
            return self._excess(choices, widths) + (missing / channels if missing else 0.0)

        found = search([choice.unit for choice in choices], excess)
        gone = _gone(choices, found.widths)
        outputs = self._outputs(choices, found.widths)
        after = network_cost(self._network.layers(outputs), self.chip)
        if not found.reached or (self.goals.fit and not after.fits):
            raise self._missed(after, gone / channels if channels else 0.0)
        uniform, share = self._uniform(choices, after.weight_bytes)
        self.change = ChipChange(
            str(self.goals), self._before, after, uniform, share, channels, gone, self.goals.sparsity
        )
        keeps = {group.name: np.ones(group.size, np.bool_) for group in groups}
        for choice, width in zip(choices, found.widths, strict=True):
            for group, keep in zip(choice.groups, choice.keeps[width], strict=True):
                keeps[group.name] = keep
        return keeps

    def _choices(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> list[_Choice]:
        """Return one choice for every group that makes channels of layers on the chip; parts of a concatenation stay equal."""
        makers = {group.name: self._made(group) for group in groups}
        bundles = _bundles([group for group in groups if makers[group.name]], makers, self.mapped)
        return [self._choice(bundle, scores) for bundle in bundles]

    def _made(self, group: Group) -> set[int]:
        return {
            number
            for number, weight in enumerate(self.mapped.weights)
            for member in group.members
            if weight == member.parameter and self.axes.get(weight) == member.axis
        }

    def _choice(self, groups: tuple[Group, ...], scores: Mapping[str, FloatArray]) -> _Choice:
        size = groups[0].size
        keeps: dict[int, tuple[BoolArray, ...]] = {}
        losses: dict[int, float] = {}
        removed: dict[int, Mapping[int, int]] = {}
        total = sum(float(scores[group.name].sum()) for group in groups)
        for width in useful_widths(size, self.chip):
            kept = tuple(_kept(group, scores[group.name], size - width) for group in groups)
            if any(int(keep.sum()) != width for keep in kept):
                continue  # equal numbers must go from parts of the group, and this width does not allow that
            lost = sum(float(scores[g.name][~keep].sum()) for g, keep in zip(groups, kept, strict=True))
            keeps[width], losses[width] = kept, lost / total if total > 0 else 0.0
            removed[width] = self._removed(groups, kept)
        return _Choice(groups, keeps, removed, Unit(groups[0].name, losses))

    def _removed(self, groups: Sequence[Group], kept: Sequence[BoolArray]) -> dict[int, int]:
        gone: dict[int, int] = {}
        for group, keep in zip(groups, kept, strict=True):
            for member in group.members:
                for number, weight in enumerate(self.mapped.weights):
                    if weight == member.parameter and self.axes.get(weight) == member.axis:
                        gone[number] = gone.get(number, 0) + member.of(keep).size
        return gone

    def _outputs(self, choices: Sequence[_Choice], widths: Widths) -> Outputs:
        outputs: Outputs = {}
        for choice, width in zip(choices, widths, strict=True):
            for number, count in choice.removed[width].items():
                outputs[number] = outputs.get(number, self.mapped.layers[number].out_channels) - count
        return outputs

    def _excess(self, choices: Sequence[_Choice], widths: Widths) -> float:
        """Return how far the targets are, each as a share of what there was."""
        outputs, goals, before = self._outputs(choices, widths), self.goals, self._before
        excess = 0.0
        if goals.cycles is not None:
            over = self._network.cycles(outputs) - goals.cycles.of(before.cycles)
            excess += max(0, over) / before.cycles
        if goals.kernel_words is not None:
            over = self._network.deepest_words(outputs) - goals.kernel_words.of(before.deepest_words)
            excess += max(0, over) / before.deepest_words
        return excess + (self._misfit(outputs) if goals.fit and not before.fits else 0.0)

    def _misfit(self, outputs: Outputs) -> float:
        """Return how far the network is from fitting with all feature maps at processor 0."""
        over = self._network.deepest_words(outputs) - self.chip.kernel_words
        homeless = len(place_maps(self._network.layers(outputs), self.chip)[1])
        return max(0, over) / self.chip.kernel_words + homeless

    def _uniform(self, choices: Sequence[_Choice], weight_bytes: int) -> tuple[NetworkCost, float]:
        """Return the cost of the smallest uniform cut that leaves at most `weight_bytes`, and its share of the channels."""
        outputs: Outputs = {}
        share = 0.0
        for percent in range(1, 100):
            share = percent / 100
            outputs = {}
            for choice in choices:
                kept = [
                    _kept(group, np.arange(group.size, dtype=np.float64), int(share * group.size))
                    for group in choice.groups
                ]
                for number, count in self._removed(choice.groups, kept).items():
                    outputs[number] = outputs.get(number, self.mapped.layers[number].out_channels) - count
            if self._network.weight_bytes(outputs) <= weight_bytes:
                break
        return network_cost(self._network.layers(outputs), self.chip), share

    def _missed(self, best: NetworkCost, share: float) -> TargetMissedError:
        reached = f"{best.cycles:,} cycles and {best.deepest_words:,} words in the deepest processor"
        if self.goals.sparsity:
            reached += f" with {100 * share:.1f} % of the channels gone"
        blocked = f" {best.violations[0]}." if self.goals.fit and best.violations else ""
        return TargetMissedError(
            f"The target cannot be reached on {self.chip.name}: asked {self.goals}, the least found is {reached}.{blocked} "
            "Ask for less, or see with torchthin inspect which channels are frozen."
        )


def _gone(choices: Sequence[_Choice], widths: Widths) -> int:
    """Return how many channels go at these widths."""
    return sum(
        len(choice.groups) * (choice.unit.widths[0] - width)
        for choice, width in zip(choices, widths, strict=True)
    )


def _kept(group: Group, scores: FloatArray, count: int) -> BoolArray:
    """Return which channels stay when `count` go, fewer where equal numbers must go from parts of the group."""
    return select_channels([group], {group.name: scores}, min((count + 0.5) / group.size, 1 - 1e-9))[
        group.name
    ]


def _bundles(
    groups: Sequence[Group], makers: Mapping[str, set[int]], mapped: ChipMapping
) -> list[tuple[Group, ...]]:
    """Return groups that are decided together: the chip concatenates only parts of equal width."""
    bundles: list[tuple[Group, ...]] = [(group,) for group in groups]
    for layer in mapped.layers:
        if len(layer.sources) == 1 or layer.operands > 1:
            continue
        joined = [b for b in bundles if any(makers[group.name] & set(layer.sources) for group in b)]
        if len({group.size for bundle in joined for group in bundle}) == 1:
            bundles = [b for b in bundles if b not in joined] + [tuple(group for b in joined for group in b)]
    return bundles

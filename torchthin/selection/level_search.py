"""Levels of groups that go best together, found by trying: the losses of single groups do not add up.

An evolutionary search after SPDY (Frantar & Alistarh 2022, arXiv 2201.13096), DarwinLM (Tang et al. 2025, arXiv 2502.07780) and
Týr-the-Pruner (Li et al. 2025, arXiv 2503.09657): the best levels so far are mutated at constant budget, all offspring are
judged on a few inputs, and the best of them on more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from torchthin.selection.allocator import Excess, Levels, moved
from torchthin.selection.channels import lowest
from torchthin.selection.selection import Keeps
from torchthin.selection.selectors import Candidates
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity

GENERATIONS = 8
OFFSPRING = 12
SURVIVORS = 3
"""Of every generation these are judged on more inputs."""
STEPS = 4
"""Levels at most by which a mutation narrows a unit."""

EIGHTHS = 8
"""Widths at which every group is measured by itself."""


class OutputDistance(Protocol):
    """How far the outputs move for a choice of channels."""

    def distance(self, among: Candidates, keeps: Keeps, *, quick: bool) -> float:
        """Return the distance, on a few inputs or on more; groups that are not named are whole."""


def curves(among: Candidates, outputs: OutputDistance) -> Sensitivity:
    """Return how far the outputs move when one group alone loses each number of eighths of its channels."""
    ratios = tuple(part / EIGHTHS for part in range(1, EIGHTHS))
    found = []
    for group in among.groups:
        scores = among.scores[group.name]
        keeps = [lowest(group, scores, round(ratio * group.size)) for ratio in ratios]
        by_count = {int((~keep).sum()): keep for keep in keeps if not keep.all()}
        losses = [outputs.distance(among, {group.name: keep}, quick=True) for keep in by_count.values()]
        found.append(GroupCurve(group.name, group.size, tuple(by_count), tuple(losses)))
    return Sensitivity(tuple(found), ratios, "distance", 0.0, "")


Fitness = Callable[[Levels, bool], float]
"""Levels, and whether a few inputs are enough -> loss of all units together."""


def searched(
    start: Levels, choices: Sequence[Sequence[int]], excess: Excess, fitness: Fitness, seed: int = 0
) -> Levels:
    """Return levels that lose no more than `start` and are within the target, as it is.

    choices: for every unit its levels, ascending, the one of `start` among them. excess: how far levels are from the target;
    0 and less: it is reached.
    """
    generator = random.Random(seed)
    best, least = start, fitness(start, False)
    for _ in range(GENERATIONS):
        offspring = {_mutated(best, choices, excess, generator) for _ in range(OFFSPRING)} - {best}
        ranked = sorted(offspring, key=lambda levels: (fitness(levels, True), levels))
        for levels in ranked[:SURVIVORS]:
            loss = fitness(levels, False)
            if loss < least:
                best, least = levels, loss
    return best


def _mutated(
    levels: Levels, choices: Sequence[Sequence[int]], excess: Excess, generator: random.Random
) -> Levels:
    """Narrow one unit by a few levels, and widen others, in random order, as far as the target allows."""
    order = generator.sample(range(len(levels)), len(levels))
    steps = generator.randint(1, STEPS)
    narrower = [level for level in choices[order[0]] if level > levels[order[0]]][:steps]
    levels = moved(levels, order[0], narrower[-1]) if narrower else levels
    for number in order[1:]:
        for level in reversed([level for level in choices[number] if level < levels[number]]):
            candidate = moved(levels, number, level)
            if excess(candidate) > 0:
                break
            levels = candidate
    return levels

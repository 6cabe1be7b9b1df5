"""The sparsity after every step of a schedule, and how many channels or weights that asks for."""

from __future__ import annotations

from torchthin.config import PruneConfig
from torchthin.selection import schedule
from torchthin.selection.channels import prune_count, rounded_count
from torchthin.selection.distiller import agp_target


def planned_sparsities(config: PruneConfig) -> tuple[float, ...]:
    """Return the sparsity after every step; the last one is what is asked for.

    With Distiller's AGP the last one is above the target, as there.
    """
    if config.rule.schedule == "one-shot":
        return (schedule.one_shot(1, target=config.target_sparsity),)
    steps = range(1, config.agp_steps + 1)
    planned = tuple(schedule.agp(t, target=config.target_sparsity, steps=config.agp_steps) for t in steps)
    if config.compat == "distiller":
        return (*planned[:-1], agp_target(config.target_sparsity, config.agp_steps))
    return planned


def units_asked(config: PruneConfig, sizes: list[int]) -> int:
    """Return how many channels or weights are asked for of tensors of these sizes together."""
    if config.scope == "global":
        spared = (config.round_to - 1) * len(sizes)  # at most, by rounding
        return max(prune_count(config.target_sparsity, sum(sizes)) - spared, 0)
    return sum(count_of(config, size) for size in sizes)


def count_of(config: PruneConfig, size: int) -> int:
    """Return how many of `size` channels or weights are asked for."""
    if config.blocks is None:
        return rounded_count(config.target_sparsity, size, config.round_to)
    n, m = config.blocks
    return size // m * (m - n)

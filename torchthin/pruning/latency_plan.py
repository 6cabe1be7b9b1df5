"""A plan within a latency: foretold by measured layers, believed only when the whole model was measured."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from torchthin.config import Limit
from torchthin.errors import InputError, TargetMissedError
from torchthin.evaluation.latency import LatencyCache, LayerTable, Stopwatch, WallClock, in_turns
from torchthin.evaluation.latency.cache import machine
from torchthin.evaluation.latency.stopwatch import Compared
from torchthin.evaluation.results import Progress
from torchthin.graph.cost import Cost
from torchthin.graph.trace import Traced
from torchthin.report.sections import LatencyFacts
from torchthin.selection import kernel_widths
from torchthin.selection.budget_rule import BudgetRule, ForecastMissedError, held
from torchthin.selection.cost_model import CostModel
from torchthin.selection.kernel_widths import weight_dtype
from torchthin.thinning.apply import borrowed, thin_copy
from torchthin.thinning.search.trial_loop import ThinningPlan

CLOCK: Stopwatch = WallClock()
"""What measures; tests put another one here."""
_CORRECTIONS = 2
"""So often the times are corrected by what was measured, and widths are chosen again."""
_CLOSE = 0.92
"""Share of the limit from which a model that reaches it is good enough: below it, too much was removed where the forecast was
wrong by as much."""

_BEYOND = 1.001
"""Against rounding of forecasts to nanoseconds."""
_LEAST_GAIN = 0.05
"""Below it cuts save no time, and other widths would not either."""

Within = Callable[[BudgetRule], tuple[ThinningPlan, Cost]]
"""A plan within the other budgets, and its cost."""


@dataclass(frozen=True)
class TimedPlan:
    """A plan whose model was measured."""

    found: ThinningPlan
    cost: Cost
    rule: BudgetRule
    facts: LatencyFacts


def within_latency(rule: BudgetRule, traced: Traced, within: Within, progress: Progress | None) -> TimedPlan:
    """Return the plan that removes least of those that were measured to be fast enough.

    Raises:
        TargetMissedError: none was.
    """
    limit = rule.target.limits["latency"]
    rule = replace(rule, times=_table(rule, traced, progress))
    tried: list[TimedPlan] = []
    narrowest = False  # whether the forecast was stretched until the narrowest model reaches the limit
    while len(tried) <= _CORRECTIONS:
        try:
            tried.append(_tried(rule, limit, traced, within))
        except ForecastMissedError as error:
            if not narrowest:  # a forecast alone refuses nothing: the narrowest model is measured
                narrowest, rule = True, _stretched(rule, error)
                continue
            if not tried:
                raise
            break
        facts = tried[-1].facts
        gain = _gain(rule, limit, facts) if facts.cut else 0.0
        good = facts.of_limit <= 1 and (facts.of_limit >= _CLOSE or abs(gain - 1) < 1 - _CLOSE)
        if good or gain < _LEAST_GAIN or (narrowest and gain < 1):
            break
        rule = _with_gain(rule, _gain_of(rule) * gain)
    reached = [each for each in tried if each.facts.reached]
    best = min(reached or tried, key=lambda each: each.facts.of_limit)
    if not reached:
        raise TargetMissedError(f"{best.facts.missed} {_held(best, traced.model)}")
    surely = [each for each in reached if each.facts.of_limit <= 1]
    return max(surely, key=lambda each: each.facts.of_limit, default=best)


def idle_cut(traced: Traced, found: ThinningPlan) -> tuple[str, ...]:
    """Return the note that a cut saves no time on a GPU. On the CPU time is measured only when it is asked for."""
    if not found.recipe or kernel_widths.device_type(traced.model) not in kernel_widths.GPUS:
        return ()
    with contextlib.suppress(
        RuntimeError, InputError
    ):  # a courtesy: without memory for both models there is no note
        thinned = thin_copy(traced.model, found.recipe, borrowed)
        compared = in_turns(CLOCK, traced.model, thinned, traced.inputs, briefly=True)
        if compared.saves_nothing:
            before, after = (f"{each / 1e6:.4g}" for each in (compared.before, compared.after))
            return (
                f"The cut saves no time on this GPU: {before} -> {after} ms for the example (medians of {compared.runs} runs in "
                "turns). Try a larger batch, or ask for a time, such as Budget(latency='0.6x') (--target-latency 0.6x).",
            )
    return ()


def _gain_of(rule: BudgetRule) -> float:
    return 1.0 if rule.times is None else rule.times.gain


def _stretched(rule: BudgetRule, error: ForecastMissedError) -> BudgetRule:
    """Return the rule by which the most that can be removed saves just enough."""
    assert rule.times is not None
    foretold = rule.times.whole - error.least
    if foretold <= 0:
        raise error
    wanted = rule.times.whole - rule.limits["latency"]
    return _with_gain(rule, _gain_of(rule) * _BEYOND * wanted / foretold)


def _with_gain(rule: BudgetRule, gain: float) -> BudgetRule:
    assert isinstance(rule.times, LayerTable)
    return replace(rule, times=replace(rule.times, gain=gain))


def _table(rule: BudgetRule, traced: Traced, progress: Progress | None) -> LayerTable:
    """Return the layer times of the machine at hand, and the whole model's time."""
    device = next(traced.model.parameters()).device
    where = machine(device, weight_dtype(traced.model))
    cache = LatencyCache(rule.target.latency_cache, where)
    (whole,) = CLOCK.models((traced.model,), traced.inputs)
    # Whole nanoseconds, as limits are: else 1x of it would be below what the model takes with nothing removed.
    nanoseconds = float(round(statistics.median(whole)))
    return LayerTable.of(traced.model, nanoseconds, cache, CLOCK, progress)


def _tried(rule: BudgetRule, limit: Limit, traced: Traced, within: Within) -> TimedPlan:
    """Choose widths, and measure what comes of it."""
    found, cost = within(rule)
    foretold = found.proposal.selection.facts.latency
    if found.recipe:
        thinned = thin_copy(traced.model, found.recipe, borrowed)
        compared = in_turns(CLOCK, traced.model, thinned, traced.inputs)
    else:
        assert rule.times is not None
        compared = Compared(rule.times.whole, rule.times.whole, 0.0, 1)
    device = next(traced.model.parameters()).device
    most = limit.number * (compared.before if limit.relative else 1)
    facts = LatencyFacts(
        most / 1e9,
        compared.before / 1e9,
        compared.after / 1e9,
        foretold / 1e9,
        compared.noise,
        compared.runs,
        _where(device, weight_dtype(traced.model)),
        cut=bool(found.recipe),
    )
    return TimedPlan(found, cost, rule, facts)


def _where(device: torch.device, dtype: torch.dtype) -> str:
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device}{threads.removesuffix('s') if threads == ', 1 threads' else threads}, {str(dtype).removeprefix('torch.')}"


def _gain(rule: BudgetRule, limit: Limit, facts: LatencyFacts) -> float:
    """Return how much was saved, in units of what was foretold: of shares where the limit is one."""
    assert rule.times is not None
    whole = rule.times.whole / 1e9
    foretold = whole - facts.foretold
    saved = facts.before - facts.after
    if limit.relative:
        saved, foretold = saved / facts.before, foretold / whole
    return saved / foretold if foretold > 0 else 0.0


def _held(best: TimedPlan, model: nn.Module) -> str:
    """Return in words which layers hold the time that is left."""
    proposal, rule = best.found.proposal, best.rule
    costs = CostModel(model, proposal.labels, proposal.grouping, rule.whole, rule.shares, rule.times)
    return held(costs.slowest(proposal.selection.keeps)) + (
        " Ask for less, or see with torchthin inspect which channels are frozen."
    )

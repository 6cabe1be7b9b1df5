"""Plans that remove whole experts of a mixture: as many of every router, the best stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from torchthin.config import PruneConfig, Ratio
from torchthin.dependency.experts import Experts, find_experts
from torchthin.errors import ConfigError, ProofError
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import Traced
from torchthin.importance.channels import FloatArray
from torchthin.importance.experts import expert_tensors, routed_importance
from torchthin.importance.registry import criterion as registered
from torchthin.importance.scores import FALLBACK, Ranking, ranked
from torchthin.selection.balance import balanced_keep
from torchthin.selection.prunable_weights import PrunableWeights
from torchthin.selection.selection import BoolArray, Selection
from torchthin.selection.selectors import masks_of
from torchthin.thinning.experts import ExpertCut, plan_experts
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import ThinningPlan

KIND = "experts"
"""Key of `torchthin.dependency.kinds.KINDS`."""
_BY_DATA = "Experts are ranked by what they add to the tokens that reach them on the data."
_BY_WEIGHTS = (
    "Experts are ranked by their weights; with data they are by what they add to the tokens that reach them."
)
_PROVED = "The model was compared with the dense one whose routers never pick those that are removed (logits of minus infinity)."


def expert_plan(
    traced: Traced, targets: PrunableWeights, config: PruneConfig, batches: Sequence[Inputs]
) -> ThinningPlan | None:
    """Return the plan of a target that asks for experts; None where the model has none.

    Args:
        traced: the full-size model and its record.
        targets: what may be pruned: experts of which anything is excluded stay.
        config: its target is a `Ratio` by kind.
        batches: calibration data, by which experts are ranked where there is some.

    Raises:
        ConfigError: the target asks for something that does not go with experts, or leaves too few of them.
        ProofError: the thinned model is not the dense one without these experts.
    """
    target = config.target
    assert isinstance(target, Ratio)
    _check(target, config)
    found = find_experts(traced.graph, traced.model)
    sites = [site for site in found if not site.holds_any(targets.kept)]
    if not sites:
        return None
    counts = [_count(target, site) for site in sites]
    ranking = _ranking(traced, sites, config, batches)
    keeps = {
        site.group.name: _keep(site, ranking.scores[site.group.name], count)
        for site, count in zip(sites, counts, strict=True)
    }
    return plan_experts(
        traced,
        [ExpertCut(site, keeps[site.group.name]) for site in sites],
        _selection(traced, sites, keeps, ranking, target.by_kind[KIND]),
        Constraints.of(config),
        f"{_BY_DATA if _uses_data(config, batches) else _BY_WEIGHTS} {_PROVED}",
    )


def removable_experts(
    traced: Traced, proof: str, *, tried: bool
) -> tuple[list[Experts], dict[str, tuple[int, str]]]:
    """Return the experts of every router, and those that a trial shows to stay: router -> their number and the reason.

    Args:
        traced: the full-size model and its record.
        proof: how much is compared.
        tried: half of them are removed on a copy; else nothing runs.
    """
    found = find_experts(traced.graph, traced.model)
    if not tried or not found:
        return [*found], {}
    try:
        _try(traced, found, proof)
        return [*found], {}
    except ProofError:
        errors = {site: _error(traced, site, proof) for site in found}
    stuck = {site.group.name: (site.size, error) for site, error in errors.items() if error}
    return [site for site, error in errors.items() if not error], stuck


def _try(traced: Traced, sites: Sequence[Experts], proof: str) -> None:
    """Remove half of the experts that can go on a copy."""
    cuts = []
    for site in sites:
        count = (site.size - site.least) // 2 // site.parts * site.parts
        cuts.append(ExpertCut(site, _keep(site, np.random.default_rng(0).random(site.size), count)))
    keeps = {cut.experts.group.name: cut.keep for cut in cuts}
    selection = Selection(keeps, groups=tuple(site.group for site in sites))
    plan_experts(traced, cuts, selection, Constraints(proof=proof))


def _error(traced: Traced, site: Experts, proof: str) -> str:
    try:
        _try(traced, [site], proof)
    except ProofError as error:
        return str(error)
    return ""


def _check(target: Ratio, config: PruneConfig) -> None:
    others = [key for key in target.by_kind if key != KIND]
    if others:
        raise ConfigError(
            f"The kind experts cannot be cut in one run with {others[0]}: experts that are removed change what the others see. "
            "Prune twice, the first time with experts alone."
        )
    if target.scope == "global":
        raise ConfigError(
            "The scope (--scope) of experts must be 'group': every router loses as many. Got 'global'. Leave it out."
        )
    if not config.thin:
        raise ConfigError(
            "Experts are removed, not masked: a router may pick an expert of zeros. Leave thin=False (--no-thin) out."
        )


def _count(target: Ratio, experts: Experts) -> int:
    """Return how many experts a router loses.

    Raises:
        ConfigError: it could not pick as many as it picks any more.
    """
    parts = experts.parts
    count = target.units(experts.size, target.by_kind[KIND])
    while count % parts or (experts.size - count) % (target.multiple if count else 1):
        count -= 1
    if experts.size - count < experts.least:
        each = f" in {parts} groups" if parts > 1 else ""
        raise ConfigError(
            f"The ratio (--ratio) of experts must leave {experts.block or 'the model'} at least {experts.least} of its "
            f"{experts.size} experts{each}, since its router picks so many. Got {target.by_kind[KIND]:g}, which leaves "
            f"{experts.size - count}. Ask for at most {1 - experts.least / experts.size:g}."
        )
    return count


def _ranking(
    traced: Traced, sites: Iterable[Experts], config: PruneConfig, batches: Sequence[Inputs]
) -> Ranking:
    """Return the scores of all experts: by what they contribute on data, or by their weights."""
    needs_data = registered(config.ranked_by).needs_data
    name = FALLBACK if needs_data else config.ranked_by
    ranking = ranked([site.group for site in sites], traced.tensors, _axes(sites), name, None, config.seed)
    ranking = replace(ranking, scores={**ranking.scores, **_with_lists(traced, sites, ranking, config)})
    if not _uses_data(config, batches):
        return ranking
    measured = routed_importance(traced.model, sites, batches)
    unmeasured = tuple(ranking.scores.keys() - measured.keys())
    return Ranking({**ranking.scores, **measured}, fallen_back=unmeasured)


def _uses_data(config: PruneConfig, batches: Sequence[Inputs]) -> bool:
    return bool(batches) and (registered(config.ranked_by).needs_data or config.criterion is None)


def _with_lists(
    traced: Traced, sites: Iterable[Experts], ranking: Ranking, config: PruneConfig
) -> dict[str, FloatArray]:
    """Return the scores of experts that are modules with those of their own weights added."""
    rule = registered(config.ranked_by).of_rows or registered(FALLBACK).of_rows
    assert rule is not None
    found = {}
    for site in sites:
        if site.lists and config.ranked_by != "random":
            experts = [expert_tensors(traced.model, site, number) for number in range(site.size)]
            own = [
                rule(torch.stack([part.flatten().float() for part in parts]))
                for parts in zip(*experts, strict=True)
            ]
            found[site.group.name] = (
                ranking.scores[site.group.name] + torch.stack(own).sum(0).double().cpu().numpy()
            )
    return found


def _axes(sites: Iterable[Experts]) -> Mapping[str, int]:
    return {name: axis for site in sites for name, axis in site.axes.items()}


def _keep(experts: Experts, scores: FloatArray, count: int) -> BoolArray:
    """Return which experts stay: the lowest go, equally many of every group that a router picks first."""
    if experts.group.balances:
        return balanced_keep(experts.group, scores, count)
    keep = np.ones(experts.size, np.bool_)
    keep[np.argsort(scores, kind="stable")[:count]] = False
    return keep


def _selection(
    traced: Traced, sites: Sequence[Experts], keeps: Mapping[str, BoolArray], ranking: Ranking, share: float
) -> Selection:
    groups, axes = tuple(site.group for site in sites), _axes(sites)
    masks = masks_of(groups, keeps, traced.model, axes, (), {}, views=True)
    return Selection(
        keeps,
        masks,
        groups,
        axes,
        axes,
        frozenset(axes),
        ranking,
        kinds=dict.fromkeys(keeps, KIND),
        shares=dict.fromkeys(keeps, share),
    )

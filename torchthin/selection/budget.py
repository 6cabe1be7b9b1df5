"""Which channels go when budgets decide: the least sparsity that reaches them, then channels are given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from torchthin.config import Limit
from torchthin.dependency.components import Grouping
from torchthin.dependency.groups import Group
from torchthin.dependency.propagate import Labels
from torchthin.errors import BudgetError, TargetMissedError
from torchthin.graph.cost import Cost
from torchthin.selection.channels import least_kept, lowest, select_channels
from torchthin.selection.cost_model import Ledger, Spent
from torchthin.selection.decision import Decision
from torchthin.selection.selectors import BoolArray, ByImportance, FloatArray

Keeps = dict[str, BoolArray]
_HALVINGS = 40
"""Of the interval in which the sparsity lies: beyond the digits that any count of channels shows."""


def by_budget(how: ByImportance, budgets: Mapping[str, Limit], whole: Cost) -> ByBudget:
    """Return a decision like `how` that stays below `budgets` instead of taking a sparsity.

    budgets: ``parameters`` and ``macs``, either or both. whole: cost of the model as it is.
    """
    choices = {each.name: getattr(how, each.name) for each in fields(how)}
    limits = {name: limit.of(Spent(whole.parameters, whole.macs).of(name)) for name, limit in budgets.items()}
    asked = ", ".join(f"{name} of {limit.text}" for name, limit in budgets.items())
    return ByBudget(**choices, limits=limits, asked=asked, whole=whole)


@dataclass
class ByBudget(ByImportance):
    """A decision by importance: the largest model within the budgets."""

    limits: Mapping[str, int] = field(kw_only=True)
    """``parameters`` or ``macs`` -> the most that is allowed."""
    asked: str = field(kw_only=True)
    whole: Cost = field(kw_only=True)
    reserve: Mapping[str, int] = field(default_factory=dict)
    """What thinning was seen to add (biases that carry constants): it is kept free."""
    spent: Spent | None = None
    """What the last decision costs."""
    calls: int = 0
    ledger: Ledger | None = None

    def __call__(self, grouping: Grouping, labels: Labels) -> Decision:
        """Select over the groups as they are now."""
        self.ledger = Ledger(self.model, labels, grouping, self.whole)
        decision = super().__call__(grouping, labels)
        self.calls += 1
        return decision

    def select(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
        """Find the least sparsity within the budgets (`target_sparsity` or more), and give back what they still allow.

        Raises:
            InputError: the budgets ask for less than is left when every group keeps its floor.
            TargetMissedError: the same, after channels turned out not to go.
        """
        least = {group.name: self._least(group, scores[group.name]) for group in groups}
        if not self._fits(least):
            self._refuse(least)
        keeps = self._searched(groups, scores)
        keeps = self._given_back(groups, scores, keeps)
        assert self.ledger is not None
        self.spent = self.ledger.spent(keeps)
        return keeps

    def _least(self, group: Group, scores: FloatArray) -> BoolArray:
        most = group.size - least_kept(self.keep_at_least, group.size)
        return lowest(group, scores, most, self.round_to)

    def _fits(self, keeps: Mapping[str, BoolArray]) -> bool:
        assert self.ledger is not None
        spent = self.ledger.spent(keeps)
        return all(spent.of(n) + self.reserve.get(n, 0) <= limit for n, limit in self.limits.items())

    def _refuse(self, least: Keeps) -> None:
        assert self.ledger is not None
        spent = self.ledger.spent(least)
        parts = [
            f"{spent.of(name) + self.reserve.get(name, 0):,} {name}"
            f" ({(spent.of(name) + self.reserve.get(name, 0)) / max(self.ledger.whole.of(name), 1):.3f}x)"
            for name in self.limits
        ]
        stays = (
            f"{self.keep_at_least:g} of every group" if self.keep_at_least else "one channel of every group"
        )
        text = (
            f"The budget of prune cannot be reached: asked {self.asked}, the least is {' and '.join(parts)}, "
            f"where {stays} stays. Ask for more, or see with torchthin inspect what is frozen."
        )
        raise TargetMissedError(text) if self.calls else BudgetError(text)

    def _searched(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> Keeps:
        """Return the selection at the least sparsity that fits; selections are nested, so costs fall with it."""
        low, high = self.target_sparsity, 1 - 1e-9
        keeps = self._at(groups, scores, low)
        if self._fits(keeps):
            return keeps
        best = self._at(groups, scores, high)
        if not self._fits(best):  # equal numbers from parts stop a little earlier than the floors do
            best = {group.name: self._least(group, scores[group.name]) for group in groups}
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            keeps = self._at(groups, scores, middle)
            if self._fits(keeps):
                best, high = keeps, middle
            else:
                low = middle
        return best

    def _at(self, groups: Sequence[Group], scores: Mapping[str, FloatArray], sparsity: float) -> Keeps:
        assert self.ranking is not None
        return select_channels(
            groups,
            scores,
            sparsity,
            self.scope,
            keep_at_least=self.keep_at_least,
            absolute=self.ranking.absolute,
            round_to=self.round_to,
        )

    def _given_back(self, groups: Sequence[Group], scores: Mapping[str, FloatArray], keeps: Keeps) -> Keeps:
        """Give channels back, a group's best one at a time, the most important first, while the budgets hold."""
        keeps = dict(keeps)
        asked = self._at(groups, scores, self.target_sparsity)
        open_groups = list(groups)
        while open_groups:
            offers = [
                (self._worth(group, scores[group.name], keeps[group.name], wider), group, wider)
                for group in open_groups
                if (wider := wider_by_one(group, scores[group.name], keeps[group.name], self.round_to))
                is not None
            ]
            open_groups = []
            for _, group, wider in sorted(offers, key=lambda offer: -offer[0]):
                now = {**keeps, group.name: wider}
                if self._enough(now, asked) and self._fits(now):
                    keeps[group.name] = wider
                    open_groups.append(group)
        return keeps

    def _enough(self, keeps: Keeps, asked: Keeps) -> bool:
        """Whether at least as much goes as `target_sparsity` alone would have let go."""
        gone = {name: (int((~keep).sum()), int((~asked[name]).sum())) for name, keep in keeps.items()}
        if self.scope == "global":
            return sum(now for now, _ in gone.values()) >= sum(least for _, least in gone.values())
        return all(now >= least for now, least in gone.values())

    def _worth(self, group: Group, scores: FloatArray, keep: BoolArray, wider: BoolArray) -> float:
        """Return what giving channels back brings: their importance, in units of the group's mean where groups do not compare."""
        assert self.ranking is not None
        gained = float(scores[wider & ~keep].sum())
        mean = float(scores.mean())
        return gained if self.ranking.absolute or mean <= 0 else gained / mean


def wider_by_one(group: Group, scores: FloatArray, keep: BoolArray, round_to: int = 1) -> BoolArray | None:
    """Return the next wider choice for a group, None when it is whole."""
    gone = int((~keep).sum())
    for count in range(gone - 1, -1, -1):
        wider = lowest(group, scores, count, round_to)
        if int((~wider).sum()) < gone:
            return wider
    return None

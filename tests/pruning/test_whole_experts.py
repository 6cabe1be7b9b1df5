"""Whole experts: the thinned model is the dense one in which removed experts have a logit of minus infinity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

import torchthin
from torchthin.dependency.experts import find_experts
from torchthin.errors import ConfigError, KindError, ProofError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.importance.experts import routed_importance
from torchthin.selection.selection import Selection
from torchthin.thinning.experts import ExpertCut, plan_experts
from torchthin.thinning.search.constraints import Constraints

WIDTH, EXPERTS = 6, 8
RATIO = torchthin.Ratio({"experts": 0.25})


class Mixture(nn.Module):
    """A residual block whose router picks two of eight experts, which lie in stacked tensors; `how` says how they are called."""

    def __init__(self, how: str = "loop", width: int = WIDTH, hidden: int = 5) -> None:
        super().__init__()
        self.how, self.top_k, self.num_experts, self.width = how, 2, EXPERTS, width
        self.stem = nn.Linear(width, width)
        self.router = nn.Linear(width, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, width, hidden))
        self.down = nn.Parameter(torch.randn(EXPERTS, hidden, width))
        self.shared = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        flat = x.view(-1, self.width)
        weights, chosen = self.router(flat).softmax(-1).topk(self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        out: Tensor = getattr(self, self.how)(flat, weights, chosen)
        return x + out.view_as(x) + self.shared(x)

    def loop(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        picked = nn.functional.one_hot(chosen, self.num_experts).permute(2, 1, 0)
        for expert in range(self.num_experts):
            slot, token = torch.where(picked[expert])
            made = silu(x[token] @ self.up[expert]) @ self.down[expert]
            out.index_add_(0, token, made * weights[token, slot, None])
        return out

    def gathered(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        made = silu(torch.einsum("th,tkhf->tkf", x, self.up[chosen]))
        return (torch.einsum("tkf,tkfh->tkh", made, self.down[chosen]) * weights[..., None]).sum(1)

    def every(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        gates = torch.zeros(len(x), self.num_experts, dtype=x.dtype).scatter(1, chosen, weights)
        made = torch.bmm(silu(torch.bmm(x.expand(self.num_experts, -1, -1), self.up)), self.down)
        return (made * gates.t()[..., None]).sum(0)


class Expert(nn.Module):
    """One of a list."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up.t().clone()), nn.Parameter(down.t().clone())

    def forward(self, x: Tensor) -> Tensor:
        return silu(x @ self.up.t()) @ self.down.t()


class Listed(Mixture):
    """The same with an own module for each expert, which is called only where a token goes to it."""

    def __init__(self) -> None:
        super().__init__("listed")
        self.experts = nn.ModuleList(map(Expert, self.up.data, self.down.data))
        del self.up, self.down

    def listed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        picked = nn.functional.one_hot(chosen, self.num_experts).permute(2, 1, 0)
        for expert in picked.sum((-1, -2)).nonzero().flatten().tolist():
            slot, token = torch.where(picked[expert])
            out.index_add_(0, token, self.experts[expert](x[token]) * weights[token, slot, None])
        return out


X = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))


def model(*given: Any, **how: Any) -> Mixture:
    torch.manual_seed(0)
    return Mixture(*given, **how).double().eval()


def listed() -> Listed:
    torch.manual_seed(0)
    return Listed().double().eval()


def without(net: Mixture, removed: list[int]) -> Callable[[Tensor], Tensor]:
    """Return the dense model in which these experts are never picked."""
    net.router.register_forward_hook(lambda *call: call[2].index_fill(-1, torch.tensor(removed), -torch.inf))
    return net


def removed_from(result: torchthin.PruneResult) -> list[int]:
    return (~result.masks["router.weight"][:, 0]).nonzero().flatten().tolist()


@pytest.mark.parametrize("how", ["loop", "gathered", "every"])
def test_removed_experts_are_those_that_the_router_never_picks(how: str) -> None:
    result = torchthin.prune(model(how), X.double(), RATIO)
    small, removed = result.model, removed_from(result)
    assert small.up.shape[0] == small.down.shape[0] == small.router.out_features == small.num_experts == 6
    assert small.shared.out_features == WIDTH
    assert result.proof is not None
    assert result.proof.exact
    fresh = torch.randn(50, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(small(fresh), without(model(how), removed)(fresh))


def test_experts_that_are_modules_go_from_their_list(tmp_path: Path) -> None:
    few = X[:, :1].double()  # two tokens: most experts do not run
    result = torchthin.prune(listed(), few, RATIO)
    small, removed = result.model, removed_from(result)
    assert (len(small.experts), small.num_experts, small.router.out_features) == (6, 6, 6)
    assert result.proof is not None
    assert result.proof.exact
    fresh = torch.randn(50, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(small(fresh), without(listed(), removed)(fresh))
    again = torchthin.prune(small, few, {"experts": 0.5})
    again.save(tmp_path / "thin.pth")
    loaded = torchthin.load(listed(), tmp_path / "thin.pth")
    assert len(loaded.experts) == 3
    torch.testing.assert_close(loaded(fresh), again.model(fresh))


def test_both_forms_lose_the_same_experts_and_parameters() -> None:
    for data in (None, [X.double()]):
        stacked, modules = (torchthin.prune(net, X.double(), RATIO, data=data) for net in (model(), listed()))
        assert removed_from(stacked) == removed_from(modules)
    plans = [torchthin.plan(net, X.double(), RATIO).explain() for net in (model(), listed())]
    assert len({line for plan in plans for line in plan.splitlines() if line.startswith("Thinning:")}) == 1
    shares = [
        next(item.parameters for item in torchthin.inspect(net, X.double()).kinds if item.kind == "experts")
        for net in (model(), listed())
    ]
    assert shares[0] == pytest.approx(shares[1])


def test_a_size_that_equals_the_number_of_experts_by_chance_stays() -> None:
    result = torchthin.prune(model(width=EXPERTS, hidden=EXPERTS), torch.randn(4, EXPERTS).double(), RATIO)
    assert result.proof is not None
    assert result.proof.exact
    assert (result.model.width, result.model.num_experts) == (EXPERTS, 6)
    assert tuple(result.model.shared.weight.shape) == (EXPERTS, EXPERTS)


def test_experts_that_a_router_cannot_tell_apart_are_proved_all_the_same() -> None:
    """Of equal logits either may be picked, and which it is depends on how many there are."""
    net = model()
    with torch.no_grad():
        net.router.weight[:] = net.router.weight[:1]
        net.router.bias[:] = 0
    result = torchthin.prune(net, X.double(), RATIO)
    assert result.proof is not None
    assert result.proof.exact


def test_thinned_checkpoints_load_into_the_class(tmp_path: Path) -> None:
    result = torchthin.prune(model(), X.double(), RATIO)
    result.save(tmp_path / "thin.pth")
    torch.testing.assert_close(
        torchthin.load(model(), tmp_path / "thin.pth")(X.double()), result.model(X.double())
    )


def test_experts_of_another_router_are_not_proved() -> None:
    """A cut that forgets a tensor of the experts, or another one's row, is another function."""
    traced = trace(model(), as_inputs(X.double()))
    (site,) = find_experts(traced.graph, traced.model)
    keep = torch.arange(EXPERTS).numpy() > 1
    for name in ("down", "up"):
        members = tuple(member for member in site.group.members if member.parameter != name)
        group = type(site.group)(site.group.name, EXPERTS, members)
        with pytest.raises(ProofError, match="cannot be removed: without their logits"):
            plan_experts(
                traced, [ExpertCut(site, keep)], Selection({group.name: keep}, groups=(group,)), Constraints()
            )


class WithNothing(Mixture):
    """Expert 0 is none: its tokens stay as they are."""

    def loop(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return super().loop(x, weights.masked_fill(chosen == 0, 0), chosen)


def test_code_that_knows_an_expert_by_its_number_keeps_it() -> None:
    torch.manual_seed(0)
    net = WithNothing().double().eval()
    with torch.no_grad():
        net.up[0] /= 100  # the first to go
    with pytest.raises(ProofError, match=r"Experts of the model cannot be removed.*outputs differ"):
        torchthin.prune(net, X.double(), {"experts": 0.125})


def test_a_router_that_could_not_pick_as_many_is_refused() -> None:
    assert torchthin.prune(model(), X.double(), {"experts": 0.75}).model.num_experts == 2
    with pytest.raises(ConfigError, match=r"at least 2 of its 8 experts.* leaves 1. Ask for at most 0.75"):
        torchthin.prune(model(), X.double(), {"experts": 0.9})


@pytest.mark.parametrize(
    ("target", "how", "message"),
    [
        (torchthin.Ratio({"experts": 0.25, "mlp": 0.25}), {}, "cannot be cut in one run with mlp"),
        (torchthin.Ratio({"experts": 0.25}, scope="global"), {}, "scope .* of experts must be 'group'"),
        (RATIO, {"thin": False}, "removed, not masked"),
        (torchthin.Budget(params="0.9x", kinds=("experts",)), {}, "by a ratio of their own"),
    ],
)
def test_what_does_not_go_with_experts_is_refused(target: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, KindError), match=message):
        torchthin.prune(model(), X.double(), target, **how)


def test_inspect_counts_experts() -> None:
    kinds = {item.kind: (item.groups, item.channels) for item in torchthin.inspect(model(), X.double()).kinds}
    assert kinds["experts"] == (1, EXPERTS)


def test_data_rank_experts_by_what_they_add_to_the_tokens_that_reach_them() -> None:
    net = model()
    traced = trace(net, as_inputs(X.double()))
    (site,) = find_experts(traced.graph, net)
    flat = net.stem(X.double()).view(-1, WIDTH)
    weights, chosen = net.router(flat).softmax(-1).topk(2)
    weights = weights / weights.sum(-1, keepdim=True)
    wanted = torch.zeros(EXPERTS, dtype=torch.float64)
    for expert in range(EXPERTS):
        token, slot = torch.where(chosen == expert)
        made = silu(flat[token] @ net.up[expert]) @ net.down[expert]
        wanted[expert] = (weights[token, slot] * made.norm(dim=-1)).mean() if len(token) else 0
    found = routed_importance(net, [site], [as_inputs(X.double())])
    torch.testing.assert_close(torch.from_numpy(found["router.weight"]), wanted)
    result = torchthin.prune(net, X.double(), RATIO, data=[X.double()])
    assert removed_from(result) == sorted(wanted.argsort()[:2].tolist())
    assert any("ranked by what they add" in note for note in result.report.notes)


class Grouped(nn.Module):
    """A router as DeepSeek's: the better of two groups of four by their two best, then some of that group, by shifted scores."""

    def __init__(self, top_k: int = 2) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.shift = nn.Parameter(torch.randn(EXPERTS))
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH))
        self.groups, self.num_experts = 2, EXPERTS

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).sigmoid()
        shifted = scores + self.shift
        best = shifted.view(-1, self.groups, self.num_experts // self.groups).topk(2)[0].sum(-1).topk(1)[1]
        mask = torch.zeros(len(x), self.groups, dtype=x.dtype).scatter(1, best, 1)
        mask = mask[..., None].expand(-1, -1, self.num_experts // self.groups).reshape(-1, self.num_experts)
        chosen = shifted.masked_fill(mask == 0, -torch.inf).topk(self.top_k)[1]
        made = torch.einsum("th,tkhf->tkf", x, self.experts[chosen])
        return (made * scores.gather(1, chosen)[..., None]).sum(1)


def test_groups_of_experts_lose_equally_many_and_keep_as_many_as_are_picked() -> None:
    torch.manual_seed(0)
    net, x = Grouped().double(), torch.randn(9, WIDTH).double()
    result = torchthin.prune(net, x, {"experts": 0.4})
    assert result.proof is not None
    assert result.proof.exact
    assert sorted(expert // 4 for expert in removed_from(result)) == [0, 1]
    for top_k, least in ((2, 4), (3, 6)):
        with pytest.raises(ConfigError, match=f"at least {least} of its 8 experts in 2 groups"):
            torchthin.prune(Grouped(top_k).double(), x, {"experts": 1 - (least - 2) / 8})

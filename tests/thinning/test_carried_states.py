"""What a model hands to its own next call follows the cut, and the next call is proved."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.selection.masks import apply_masks_

WIDTH = 16


class Attention(nn.Module):
    """One head that returns its keys and values, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, WIDTH, bias=False) for _ in range(3))
        self.o = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> dict[str, Any]:
        k, v = self.k(x), self.v(x)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        weights = (self.q(x) @ k.transpose(1, 2)).softmax(-1)
        return {"logits": self.o(weights @ v), "past": (k, v)}


class Plain(Attention):
    """Its state is a tensor, a result like others."""

    def forward(self, x: Tensor, past: Any = None) -> dict[str, Any]:
        found = super().forward(x)
        return {"logits": found["logits"], "past": found["past"][1]}


class Feedback(nn.Module):
    """Its next call reads the state with a weight that the first one does not read, so no record of it shows the tie."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, WIDTH, bias=False), nn.Linear(WIDTH, 5)
        self.back = nn.Parameter(torch.randn(WIDTH, 6))

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> dict[str, Any]:
        x = x if state is None else x + state[0] @ self.back
        h = self.into(x).relu()
        return {"y": self.out(h), "state": [h]}


class Reordered(Feedback):
    """Its next call takes an entry of the state by a number of the full model."""

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> dict[str, Any]:
        h = self.into(x).relu()
        y = self.out(h) if state is None else self.out(h) + state[0][..., 3:4]
        return {"y": y, "state": [h]}


class Running(nn.Module):
    """Sums over steps behind a layer norm, so that the cut one is another function; `share` is what goes on of the sum."""

    def __init__(self, share: bool) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        self.share = share

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> dict[str, Any]:
        total = self.norm(self.into(x)).cumsum(1)
        if state is not None:
            before = state[0]
            total = total + (before * (WIDTH / before.shape[-1]) if self.share else before)
        return {"y": self.out(total), "state": [total[:, -1:]]}


class Refuses(Feedback):
    """It takes nothing back."""

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> dict[str, Any]:
        assert state is None
        return super().forward(x)


def _pruned(model: nn.Module) -> torchthin.PruneResult:
    return torchthin.prune(model, torch.randn(2, 3, 6), 0.5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_keys_and_values_are_cut() -> None:
    model = Attention()
    result = _pruned(model)

    small, masked = result.model, copy.deepcopy(model)
    apply_masks_(masked, result.masks)
    assert [tuple(layer.weight.shape) for layer in (small.q, small.k, small.v)] == [(WIDTH // 2, 6)] * 3
    assert result.proof is not None and result.proof.exact
    x, then = torch.randn(2, 3, 6), torch.randn(2, 1, 6)
    steps = [net(then, past=net(x)["past"])["logits"] for net in (masked, small)]
    torch.testing.assert_close(*steps)


def test_a_tensor_is_a_result() -> None:
    small = _pruned(Plain()).model
    assert small.v.weight.shape[0] == WIDTH and small.k.weight.shape[0] == WIDTH // 2


@pytest.mark.parametrize("kind", [Feedback, Reordered])
def test_a_state_that_does_not_fit_the_next_call_keeps_its_width(kind: type[nn.Module]) -> None:
    model = kind()
    frozen = torchthin.inspect(model, torch.randn(2, 3, 6)).frozen
    assert any("its own next call" in str(item.reason) for item in frozen)
    assert _pruned(model).model.into.weight.shape[0] == WIDTH


def test_the_next_call_of_a_function_that_departs_is_part_of_one_long_call() -> None:
    right, wrong = (_pruned(Running(share)) for share in (False, True))
    assert right.model.into.weight.shape[0] == WIDTH // 2
    assert right.proof is not None and right.proof.verdict == "approximate"
    assert wrong.model.into.weight.shape[0] == WIDTH


def test_what_the_model_does_not_take_back_is_a_result() -> None:
    frozen = torchthin.inspect(Refuses(), torch.randn(2, 3, 6)).frozen
    assert any("does not take it back" in str(item.reason) for item in frozen)


def test_verify_leaves_out_caches_of_other_widths() -> None:
    model = Attention()
    result = _pruned(model)
    masked = copy.deepcopy(model)
    apply_masks_(masked, result.masks)
    assert torchthin.verify(masked, result.model, torch.randn(2, 3, 6)).holds

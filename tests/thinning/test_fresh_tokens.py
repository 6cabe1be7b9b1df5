"""The proof looks at other tokens than those of the example."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchthin


class Watchful(nn.Module):
    """Counts how its sequences begin: a proof on the example alone sees one beginning."""

    seen: set[tuple[int, ...]] = set()  # noqa: RUF012  shared by all copies on purpose

    def __init__(self, only: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.only = only
        self.e, self.f, self.g = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = tuple(x[0].tolist())
        if self.only is not None and start != self.only:
            raise ValueError("numbers in another order mean something else")
        self.seen.add(start)
        out: Tensor = self.g(self.f(self.e(x)).relu())
        return out


def test_other_tokens_are_tried() -> None:
    Watchful.seen.clear()
    result = torchthin.prune(Watchful(), torch.arange(12).view(2, 6), 0.5)
    assert result.proof is not None and result.proof.exact
    assert {
        start for start in Watchful.seen if not set(start) <= set(range(6))
    }  # tokens of the second row, too


def test_a_model_that_takes_no_other_numbers_is_proved_on_those_it_takes() -> None:
    tokens = torch.arange(12).view(2, 6)
    result = torchthin.prune(Watchful(tuple(range(6))), tokens, 0.5)
    assert result.proof is not None and result.proof.exact

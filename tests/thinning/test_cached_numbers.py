"""Numbers that a function keeps for the whole process: the first run computes them, all later ones do not."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

import torchthin


class Cached(nn.Module):
    """Looks up a weight at positions that are computed once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.table, self.last = nn.Linear(6, 8), nn.Parameter(torch.randn(9, 8)), nn.Linear(8, 2)

    @staticmethod
    @lru_cache
    def places(sizes: tuple[int, int]) -> Tensor:
        rows, columns = torch.arange(sizes[0]), torch.arange(sizes[1])
        apart: Tensor = (rows[:, None] - columns[None, :] + sizes[0] - 1) % 9
        return apart

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        found = self.table[self.places((steps, steps)).view(-1)].view(steps, steps, -1)
        made: Tensor = self.last(self.first(x) + found.mean(1))
        return made


def test_the_first_run_of_a_process_prunes_as_much_as_the_second() -> None:
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    results = [torchthin.prune(Cached(), x, 0.5, include=["*"]) for _ in range(2)]
    assert [tuple(result.model.get_parameter("table").shape) for result in results] == [(9, 4)] * 2
    assert all(result.proof is not None and result.proof.exact for result in results)

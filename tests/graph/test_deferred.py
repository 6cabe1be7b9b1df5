"""The law: ops see the values of tensors that have none, in whatever form code hands them over; nothing else sees them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchthin.graph import deferred as deferred_tensors
from torchthin.graph.clone import clone
from torchthin.graph.deferred import Deferred
from torchthin.graph.fake import DataDependent
from torchthin.graph.inputs import as_inputs
from torchthin.graph.op_counter import CountingMode, run

SIZE = 128


class Net(nn.Module):
    """One weight, and code that reads it."""

    def __init__(self, code: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(SIZE, SIZE))
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x, self.weight)


def deferred_copy(net: nn.Module) -> tuple[nn.Module, CountingMode]:
    deferred = Deferred()

    def exchange(name: str, tensor: Tensor) -> Tensor:
        return deferred.placeholder(tuple(tensor.shape), tensor, lambda: tensor.detach().clone())

    mode = CountingMode()
    mode.deferred = deferred
    return clone(net, exchange), mode


READERS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, w: nn.functional.linear(x, w),
    lambda x, w: x @ w.t(),
    lambda x, w: x @ w.data.t()[:, :5],
    lambda x, w: x @ w.detach().view(64, -1, 2)[..., 0].reshape(SIZE, -1),
    lambda x, w: torch.cat([w, w[3:7]]) @ x.t(),
    lambda x, w: x * w.norm() + w[0],
    lambda x, w: nn.functional.conv1d(x.view(1, SIZE, -1), w.unsqueeze(-1)),
    lambda x, w: x[:, :1] * w.diagonal() + w.as_strided((SIZE,), (2,), 7),
]


@pytest.mark.parametrize("code", READERS)
def test_ops_see_the_values(code: Callable[[Tensor, Tensor], Tensor]) -> None:
    net, x = Net(code), torch.randn(2, SIZE)
    copy, mode = deferred_copy(net)
    with torch.no_grad():
        assert torch.equal(run(copy, as_inputs(x), mode), net(x))


BLIND: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, w: x * float(w.numpy()[0, 0]),
    lambda x, w: x * w.tolist()[0][0],
    lambda x, w: x @ w.mul_(2),
]


@pytest.mark.parametrize("code", BLIND)
def test_what_reads_or_changes_them_past_the_ops_is_refused(code: Callable[[Tensor, Tensor], Tensor]) -> None:
    copy, mode = deferred_copy(Net(code))
    with pytest.raises(DataDependent):
        run(copy, as_inputs(torch.randn(2, SIZE)), mode)


def test_no_more_values_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(64, 64) for _ in range(64)]
    monkeypatch.setattr(deferred_tensors, "ROOM", 4 * tensors[0].nbytes)
    deferred, made = Deferred(), []

    def make(number: int) -> Tensor:
        made.append(number)
        return tensors[number]

    standing = [
        deferred.placeholder((64, 64), tensor, lambda number=number: make(number))  # type: ignore[misc]
        for number, tensor in enumerate(tensors)
    ]
    for tensor, real in zip(standing, tensors, strict=True):
        assert torch.equal(deferred.values(tensor), real)
        assert deferred.values(tensor) is deferred.values(tensor)
    assert made == list(range(64))
    deferred.values(standing[0])
    assert made[-1] == 0
    assert sum(tensor.nbytes for tensor in deferred._made.values()) <= 4 * tensors[0].nbytes

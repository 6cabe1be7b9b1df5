"""A run leaves nothing behind: not in the model's dicts, whatever their class allows, and not in switches of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
from nets.small import image
from torch import Tensor, nn

import torchthin
from torchthin.graph.call_sites import ModuleStack
from torchthin.graph.evaluation_mode import evaluation_mode


def _refuse(*_: Any, **__: Any) -> None:
    raise TypeError("this dict is frozen")


class FrozenDict(dict[str, Any]):
    update = pop = clear = __delitem__ = setdefault = popitem = _refuse


class FrozenOrderedDict(OrderedDict[str, Any]):
    update = pop = clear = __delitem__ = setdefault = popitem = move_to_end = _refuse


KINDS = {FrozenDict: dict, FrozenOrderedDict: OrderedDict}


class Configured(nn.Module):
    def __init__(self, kind: type[dict[str, Any]], writes: bool) -> None:
        super().__init__()
        self.config, self.writes = kind(width=16, depth=2), writes
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.writes:
            base = KINDS[type(self.config)]
            base.__delitem__(self.config, "width")
            base.__setitem__(self.config, "width", 8)
            base.__setitem__(self.config, "calls", 1)
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dicts_that_forbid_changes(kind: type[dict[str, Any]], writes: bool) -> None:
    model = Configured(kind, writes)
    result = torchthin.prune(model, image(), 0.5)
    assert result.model.a.out_channels == 8
    with evaluation_mode(model):
        model(image())
    for config in (model.config, result.model.config):
        assert type(config) is kind
        assert list(config.items()) == [("width", 16), ("depth", 2)]


def switches() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (
        torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled(),
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("first_out", [0, 1])
def test_switches_of_the_process_are_put_back_by_the_last_thread(first_out: int, on: bool) -> None:
    entered, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def stay(number: int) -> None:
        with evaluation_mode(nn.GRU(2, 2)):
            entered[number].set()
            leave[number].wait(60)

    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(on)
    try:
        before = switches()
        threads = [threading.Thread(target=stay, args=(number,)) for number in range(2)]
        for number, thread in enumerate(threads):
            thread.start()
            entered[number].wait(60)
        for number in (first_out, 1 - first_out):
            assert switches() == (False, False, False, False, True)
            leave[number].set()
            threads[number].join()
        assert switches() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def test_a_run_does_not_see_the_modules_of_other_threads() -> None:
    running, leave = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self) -> None:
            running.set()
            leave.wait(60)

    stack = ModuleStack(nn.Linear(2, 2))
    with stack.watch():
        beside = threading.Thread(target=Waits())
        beside.start()
        running.wait(60)
        assert stack.call_site() == ("", 0, 1)
        leave.set()
        beside.join()
        assert stack.call_site() == ("", 0, 2)

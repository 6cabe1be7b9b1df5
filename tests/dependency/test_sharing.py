"""Law: an op whose result shares storage with an argument is known as one that may; the others are not asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import SAMPLES, Sample

from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import as_outputs, by_name, may_share, storage_key, tensors_in


class _Sharing(CountingMode):
    """Collects the ops whose results share storage with what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[Any] = set()

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {storage_key(t) for a in by_name(func, args, kwargs).values() for t in tensors_in(a)}
        result = super().compute(func, args, kwargs)
        if any(t is not None and storage_key(t) in given for t in as_outputs(result)):
            self.found.add(func)
        return result


def _sharing(sample: Sample) -> set[Any]:
    mode = _Sharing()
    with torch.no_grad(), mode:
        sample.function(*(tensor.clone() for tensor in sample.tensors))
    return mode.found


def test_every_op_that_shares_storage_is_asked() -> None:
    found = set().union(*(_sharing(sample) for sample in SAMPLES))
    assert {func for func in found if not may_share(func)} == set()


@pytest.mark.parametrize(
    ("func", "may"),
    [
        (torch.ops.aten.view.default, True),
        (torch.ops.aten._unsafe_view.default, True),
        (torch.ops.aten.relu_.default, True),
        (torch.ops.aten.relu.default, False),
        (torch.ops.aten.convolution.default, False),
        (torch.ops.prims.transpose.default, True),
    ],
)
def test_what_may_share(func: Any, may: bool) -> None:
    assert may_share(func) is may

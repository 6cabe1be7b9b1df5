"""The law: memory is used again when nothing reads it any more, and never before."""

from __future__ import annotations

import torch

from torchthin.graph.reused_memory import ROOM, SMALLEST, ReusedMemory

LARGE = SMALLEST // 4


def numbers(value: float, size: int = LARGE) -> torch.Tensor:
    return torch.full((2, size // 2), value, dtype=torch.bfloat16)


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    memory = ReusedMemory()
    first = memory.converted(numbers(1), torch.float32)
    assert first.dtype == torch.float32 and first.is_contiguous() and bool((first == 1).all())
    place, view = first.data_ptr(), first.t()[3:]
    del first
    second = memory.converted(numbers(2), torch.float32)
    assert second.data_ptr() != place and bool((view == 1).all())  # a view of it is still read
    del view
    third = memory.converted(numbers(3), torch.float32)
    assert third.data_ptr() == place
    assert bool((second == 2).all()) and bool((third == 3).all())


def test_tensors_outlive_what_made_them() -> None:
    made = ReusedMemory().converted(numbers(4), torch.float32)
    assert bool((made == 4).all())


def test_little_is_kept_and_small_ones_are_made_by_torch() -> None:
    memory = ReusedMemory()
    assert memory.converted(numbers(1, 8), torch.float32).tolist() == [[1.0] * 4] * 2
    memory.take_back(None, ROOM + 1)  # type: ignore[arg-type]  # more than is kept
    assert not memory._free

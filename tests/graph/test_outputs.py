"""Whatever a model returns, its tensors are found; what hides them is named."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.graph.outputs import opaque_types, output_tensors


class Custom:
    def __init__(self, y: Tensor) -> None:
        self.y, self.me = y, self


class Slotted:
    __slots__ = ("y",)

    def __init__(self, y: Tensor) -> None:
        self.y = y


@dataclass
class Record:
    y: Tensor
    loss: Tensor | None = None


class Answers(OrderedDict[str, Any]):
    """As Hugging Face's ModelOutput: a dict and a dataclass at once."""

    def __post_init__(self) -> None: ...


Pair = namedtuple("Pair", "y z")

SEEN: dict[str, Callable[[Tensor], Any]] = {
    "object": Custom,
    "slots": Slotted,
    "dataclass": Record,
    "named tuple": lambda y: Pair(y, [1, "a"]),
    "dict subclass": lambda y: Answers(y=y, loss=None),
    "UserDict": lambda y: UserDict(y=y),
    "distribution": lambda y: torch.distributions.Normal(y, 1.0, validate_args=False),
    "nested": lambda y: [{"a": (Record(y),)}],
}


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.wrap = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.b(self.a(x)))


@pytest.mark.parametrize("name", SEEN)
def test_tensors_are_found_proved_and_kept(name: str) -> None:
    result = torchthin.prune(Returning(SEEN[name]), torch.randn(1, 3, 8, 8))
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.a.out_channels == 4
    assert result.model.b.out_channels == 4
    assert not any("no tensor is seen" in note for note in result.report.notes)


def hidden(y: Tensor) -> Iterator[Tensor]:
    yield y


def test_what_hides_its_tensors_is_named() -> None:
    result = torchthin.prune(Returning(hidden), torch.randn(1, 3, 8, 8))
    assert result.recipe is None
    (note,) = (n for n in result.report.notes if "no tensor is seen" in n)
    assert note.startswith("The model returns generator, in which no tensor is seen: ")
    beside = torchthin.prune(Returning(lambda y: (y, hidden(y))), torch.randn(1, 3, 8, 8))
    assert any("generator" in note and "is not compared" in note for note in beside.report.notes)


def test_order_and_plain_values() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    assert output_tensors({"x": a, "n": 3, "more": [b, None, "s"]}) == [a, b]
    assert opaque_types([1, "a", None, torch.float32, a]) == ()
    assert opaque_types((a, nn.ReLU())) == ("ReLU",)

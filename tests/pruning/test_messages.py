"""Errors say what is wrong with what the user gave, where, and what to do about it."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import ConfigError, InputError, KindError, TargetMissedError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace

X = torch.ones(1, 3, 4, 4)


class OfList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, images: list[Tensor]) -> Tensor:
        out: Tensor = self.layer(images[0] + images[1])
        return out


class OfDict(OfList):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward([batch["image"], batch["image"]])


class Locked(OfList):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("model", "inputs", "wrapped", "takes"),
    [
        (OfList(), [X, X], ([X, X],), "images"),
        (OfDict(), {"image": X}, ({"image": X},), "batch"),
        (nn.Conv2d(3, 4, 1), (X, X), (X,), "input"),
    ],
)
def test_an_argument_that_is_a_list_or_dict_is_wrapped(
    model: nn.Module, inputs: Any, wrapped: Any, takes: str
) -> None:
    with pytest.raises(InputError, match=rf"Its forward takes \({takes}\): .* is wrapped, as \(\[a, b\],\)"):
        torchthin.inspect(model, inputs)
    torchthin.inspect(model, wrapped)


def test_wrong_shapes_are_not_wrapped() -> None:
    with pytest.raises(InputError, match=r"Give inputs of the shapes and dtypes that its forward takes\.$"):
        torchthin.inspect(nn.Conv2d(5, 4, 1), X)


def test_a_model_that_cannot_be_copied_is_said_once() -> None:
    with pytest.raises(InputError) as raised:
        torchthin.inspect(Locked(), ([X, X],))
    assert str(raised.value).startswith("The model (Locked) cannot be copied: cannot pickle")
    assert "example_inputs" not in str(raised.value)


def test_thin_names_a_frozen_layer_only_where_something_is_dead_in_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with pytest.raises(
        TargetMissedError, match=r"can be removed\. A channel is dead where all weights"
    ) as raised:
        torchthin.thin_(model, X)
    assert "0.weight" not in str(raised.value)
    with torch.no_grad():
        model[2].weight[1] = 0
    with pytest.raises(
        TargetMissedError, match=r"Some channels of 2\.weight are dead and stay: part of the model's output"
    ):
        torchthin.thin_(model, X)


def test_a_ratio_of_each_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    assert torchthin.prune(model, X, {"0": 0.5}).model[0].out_channels == 4
    with pytest.raises(KindError, match=r"The ratio \(--ratio\) of '2' goes to nothing: it is no kind"):
        torchthin.prune(model, X, {"2": 0.5})


def test_the_place_of_an_op_is_a_line_of_the_model_or_none() -> None:
    """Who called the model, such as this test, is no place in it."""
    plain = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), as_inputs(X)).graph
    assert {str(op.source) for op in plain.ops} == {"0", "1"}
    own = trace(OfList(), as_inputs(([X, X],))).graph
    assert {op.source.file for op in own.ops} == {__file__}


def padded() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
    )


def test_the_proof_of_a_recovered_model_is_said_to_be_of_the_model_before() -> None:
    torch.manual_seed(0)
    image, data = torch.randn(2, 3, 8, 8), torch.randn(96, 3, 8, 8)
    plain, recovered = (str(torchthin.prune(padded(), image, 0.5, data=given)) for given in (None, data))
    assert "Proof: approximate" in plain and "Fine-tune or recover." in plain
    assert "Proof, before the recovery: approximate" in recovered and "Fine-tune" not in recovered


def test_data_that_choose_nothing_are_named() -> None:
    image, data = torch.randn(2, 3, 8, 8), torch.randn(8, 3, 8, 8)
    notes = {
        criterion: torchthin.prune(
            padded(), image, 0.5, data=data, thin=False, criterion=criterion
        ).report.notes
        for criterion in (None, "reconstruction")
    }
    unused = {
        criterion: any("chose no channels" in note for note in every) for criterion, every in notes.items()
    }
    assert unused == {None: True, "reconstruction": False}


def test_swapped_arguments_are_named_in_one_line(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"Got a Tensor of shape \(2, 3, 8, 8\)\. .* the third argument"):
        torchthin.prune(padded(), 0.5, image)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"Got a Tensor\. The order is export\(model, path, example_inputs\)"
    ):
        torchthin.export(padded(), image, tmp_path / "a.pt2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Write 0\.5 for 50 %\."):
        torchthin.prune(padded(), image, 50)


class OnAGraph(nn.Module):
    """Multiplies with a sparse matrix that comes with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        hidden = self.a(torch.sparse.mm(adjacency, x)).relu()
        out: Tensor = torch.sparse.mm(adjacency, self.b(hidden))
        return out


def test_channels_that_a_sparse_input_multiplies_are_kept_with_the_operator_named() -> None:
    torch.manual_seed(0)
    adjacency = torch.eye(5).to_sparse()
    notes = torchthin.prune(OnAGraph(), (torch.randn(5, 6), adjacency), 0.5).report.notes
    assert any(note.startswith("b.weight: 3 filters are kept, no rule for this operator: ") for note in notes)

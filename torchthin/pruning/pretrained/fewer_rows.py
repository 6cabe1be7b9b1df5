"""A model of transformers with some rows of its embedding of tokens, and of all that has as many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs, on_device_of, refreshed
from torchthin.graph.own_example import own_example
from torchthin.io.checkpoints import Checkpoint
from torchthin.io.pretrained.config_search import built, config_of
from torchthin.io.pretrained.fields import Field, numbers_of, with_numbers
from torchthin.io.pretrained.token_ids import renumbered
from torchthin.pruning.save_and_load import fill_
from torchthin.thinning.proof.verdict import Proof, joined, verify

_RUNS = 2


def configs_of(model: Any) -> list[Any]:
    """Return the configuration of a model, and that of its ``generate`` where it has one."""
    generation = getattr(model, "generation_config", None)
    return [model.config] if generation is None else [model.config, generation]


def with_rows(model: Any, kept: Sequence[int], size: int) -> nn.Module:
    """Return a model of the same class with the tokens `kept` of `size`, in their order.

    Raises:
        InputError: no field of the configuration sets the number of tokens.
    """
    config = model.config.to_dict()
    fields = _size_fields(model.config, config, size)
    new = {old: number for number, old in enumerate(kept)}
    made = renumbered(with_numbers(config, dict.fromkeys(fields, len(kept))), new, size)
    smaller: Any = built(model, config_of(model, made))
    rows = torch.tensor(kept)
    state = {
        name: _cut(name, value, tuple(smaller_value.shape), rows, size)
        for (name, value), smaller_value in zip(
            model.state_dict().items(), smaller.state_dict().values(), strict=True
        )
    }
    if len(smaller.get_input_embeddings().weight) != len(kept):
        raise InputError(
            f"No field of {type(model.config).__name__} sets the number of tokens ({size}) of {type(model).__name__}. "
            "Its vocabulary cannot be cut."
        )
    fill_(smaller, Checkpoint(Path(), state))
    smaller.train(model.training)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        smaller.generation_config = type(generation).from_dict(renumbered(generation.to_dict(), new, size))
    return smaller  # type: ignore[no-any-return]


def _size_fields(config: Any, entries: Mapping[str, Any], size: int) -> list[Field]:
    """Return the fields that hold the number of tokens; a class may call it by a name of its own."""
    names = {"vocab_size", getattr(config, "attribute_map", {}).get("vocab_size", "vocab_size")}
    return [
        field
        for field, value in numbers_of(entries)
        if value == size and (field[-1] in names or "vocab" in str(field[-1]))
    ]


def _cut(name: str, value: Any, shape: tuple[int, ...], rows: Tensor, size: int) -> Any:
    """Return a tensor with the kept rows of the axes that the smaller class has smaller."""
    if not isinstance(value, Tensor) or tuple(value.shape) == shape:
        return value
    for axis, (before, after) in enumerate(zip(value.shape, shape, strict=True)):
        if before != after:
            if (before, after) != (size, len(rows)):
                raise InputError(
                    f"With {len(rows)} tokens axis {axis} of {name} would have {after} entries instead of {before}. "
                    "The vocabulary of this model cannot be cut."
                )
            value = value.index_select(axis, rows.to(value.device))
    return value.clone()


class _OfKept(nn.Module):
    """A model that takes new ids, and gives scores of kept tokens alone."""

    kept: Tensor

    def __init__(self, model: nn.Module, kept: Sequence[int], size: int) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.register_buffer("kept", torch.tensor(kept), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        old = {key: self.kept[value] if key.endswith("input_ids") else value for key, value in kwargs.items()}
        return tree_map(self._of_kept, self.model(*args, **old))

    def _of_kept(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[-1] == self.size:
            return value.index_select(-1, self.kept)
        return value


def compared(model: nn.Module, smaller: nn.Module, kept: Sequence[int], size: int) -> Proof:
    """Return the comparison of both models on kept tokens.

    Raises:
        InputError: the configuration does not say what the model takes.
    """
    example = own_example(smaller)
    if not isinstance(example, dict) or "input_ids" not in example:
        raise InputError(f"{type(model).__name__} takes no texts of tokens. Its vocabulary cannot be cut.")
    inputs = on_device_of(smaller, as_inputs(example))
    fresh = [refreshed(inputs, number, integers=True) for number in range(1, _RUNS)]
    reference = _OfKept(model, kept, size)
    return joined([verify(reference, smaller, each) for each in (inputs, *fresh)])

"""The weights of a folder: under which names a model's own loader reads them, and their files, written tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone, modules_of, state_tensors
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.checkpoints.stream import INDEX, Shard, shards_of, size_in_bytes, write_shards


@dataclass(frozen=True)
class Weights:
    """What goes into the files of weights."""

    forms: Mapping[str, Tensor]
    """Name in the files -> a tensor of the type and shape, of the model or of one without values."""
    make: Callable[[Tensor], Tensor]
    """Gives one of `forms` its values."""
    max_shard_size: int | str

    @cached_property
    def shards(self) -> list[Shard]:
        """The files.

        Raises:
            ConfigError: the largest size of a file is none.
        """
        return shards_of(self.forms, size_in_bytes(self.max_shard_size))

    @property
    def files(self) -> set[str]:
        """The names of all files, with the index."""
        return {INDEX, *(shard.file for shard in self.shards)}

    def write(self, folder: Path) -> None:
        """Write the files, and never hold more than one tensor; those that are there stay."""
        write_shards(folder, self.forms, self.shards, lambda name: self.make(self.forms[name]))

    def mapped(self, skeleton: nn.Module, folder: Path) -> nn.Module:
        """Return the model without values of which `forms` are tensors, with those in the files of a folder."""
        paths = [folder / shard.file for shard in self.shards]
        state = read_checkpoint(paths).state_dict
        held = {id(form): state[name] for name, form in self.forms.items()}
        return clone(skeleton, lambda name, tensor: held[id(tensor)] if tensor.is_meta else tensor)


def saved_forms(model: Any, *, described: bool) -> dict[str, Tensor] | None:
    """Return the tensors that the files of a model hold, by name; None where its class writes others than it has.

    Args:
        model: of transformers; it may be on the meta device.
        described: its own loader is to read them: in the names of the files that the class was published with.
    """
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "_hf_peft_config_loaded", False):
        return None
    state = model.state_dict(keep_vars=True)
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    state = {name: tensor for name, tensor in state.items() if name not in ignored}
    own = {id(tensor) for _, tensor in state_tensors(model)}
    if any(id(tensor) not in own or tensor.layout != torch.strided for tensor in state.values()):
        return None
    state = _without_ties(model, state)
    if len({id(tensor) for tensor in state.values()}) < len(state) or _overlap(state):
        return None
    return _published(model, state) if described else state


def _without_ties(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out of each tied tensor's names those that the class makes from another one."""
    made = [re.compile(f"{prefix}{pattern}") for prefix, pattern in _tied_patterns(model)]
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    dropped = set[str]()
    for tied in names.values():
        derived = [name for name in sorted(tied) if any(pattern.search(name) for pattern in made)]
        dropped.update(derived[: len(tied) - 1])
    return {name: tensor for name, tensor in state.items() if name not in dropped}


def _tied_patterns(model: nn.Module) -> list[tuple[str, str]]:
    return [
        (f"{path}." if path else "", pattern)
        for path, module in modules_of(model)
        for pattern in getattr(module, "_tied_weights_keys", None) or ()
    ]


def _overlap(state: Mapping[str, Tensor]) -> bool:
    """Whether two tensors lie in the same memory."""
    places = [tensor.data_ptr() for tensor in state.values() if not tensor.is_meta and tensor.numel()]
    return len(set(places)) < len(places)


def _published(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors under the names that transformers writes; None where it makes others of them, as of joined experts."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5
        return state
    empty = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in state.items()}
    meant = {id(tensor): name for name, tensor in empty.items()}
    try:
        written = revert_weight_conversion(model, dict(empty))
    except Exception:  # a conversion that looks at numbers
        return None
    if {id(tensor) for tensor in written.values()} != meant.keys() or len(written) != len(state):
        return None
    return {name: state[meant[id(tensor)]] for name, tensor in written.items()}

"""The most memory that the tensors of one forward pass take at once, counted from the ops themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from torchthin.graph.clone import state_tensors
from torchthin.graph.inputs import Inputs, call_on_originals


class _Alive(TorchDispatchMode):
    """Sums, after every op, the storages that ops made and that are still alive."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._known = known
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {key: item for key, item in self._made.items() if not item[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return out


def peak_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Return the bytes of weights, buffers and inputs, and the peak of what one forward pass makes beside them.

    What kernels use inside an op is not seen. The model's code may write into the inputs.
    """
    tensors = [*(tensor for _, tensor in state_tensors(model)), *inputs.tensors()]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    with torch.no_grad(), _Alive(set(storages)) as alive:
        call_on_originals(model, inputs)
    return sum(storages.values()) + int(alive.peak)

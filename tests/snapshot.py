"""What a failed call must leave as it was: a model, its optimizer, and the global switches of the process."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def switches() -> dict[str, Any]:
    """Return global switches and generators."""
    return {
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch._C._get_mkldnn_enabled(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "sdp": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
        "python": hash(random.getstate()),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "global hooks": len(nn.modules.module._global_forward_hooks)
        + len(nn.modules.module._global_forward_pre_hooks),
    }


def model_facts(model: nn.Module) -> dict[str, Any]:
    """Return the identity and content of every tensor, and every attribute and hook, of `model`."""
    facts: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        facts[name] = (
            id(tensor),
            tensor.detach().clone(),
            tensor.stride(),
            tensor.requires_grad,
            tensor.dtype,
            None if tensor.grad is None else (id(tensor.grad), tensor.grad.clone()),
        )
    for path, module in model.named_modules():
        facts[f"{path}:training"] = (id(module), module.training)
        facts[f"{path}:names"] = (list(module._parameters), list(module._buffers), list(module._modules))
        for hooks in HOOKS:
            facts[f"{path}:{hooks}"] = list(getattr(module, hooks).items())
        for name, value in vars(module).items():
            if not name.startswith("_") and not isinstance(value, (Tensor, nn.Module)):
                facts[f"{path}.{name}"] = repr(value)
            elif isinstance(value, Tensor):
                facts[f"{path}.{name}"] = (id(value), value.detach().clone())
    return facts


def optimizer_facts(optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return groups and state of an optimizer."""
    if optimizer is None:
        return {}
    facts: dict[str, Any] = {"groups": [[id(p) for p in group["params"]] for group in optimizer.param_groups]}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            facts[f"{id(parameter)} {key}"] = value.clone() if isinstance(value, Tensor) else repr(value)
    return facts


def same(a: Any, b: Any) -> bool:
    """Whether two facts are equal, tensors by content (NaN equals NaN)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


class Snapshot:
    """The state of the world at one moment."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer
        self.facts = self._now()

    def _now(self) -> dict[str, Any]:
        return {
            **{f"switch {k}": v for k, v in switches().items()},
            **model_facts(self.model),
            **{f"optimizer {k}": v for k, v in optimizer_facts(self.optimizer).items()},
        }

    def changes(self) -> list[str]:
        """Return what is no longer as it was."""
        now = self._now()
        return [
            name
            for name in {**self.facts, **now}
            if name not in now or name not in self.facts or not same(self.facts[name], now[name])
        ]

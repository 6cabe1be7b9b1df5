"""Runs without arithmetic: the ops that cost most hand out tensors of the right shape, with whatever memory holds.

A record needs shapes, not numbers. On the meta device code would see another device, and many kernels there are slow
Python; here everything else is as ever. Code that asks for numbers (``item``, ``tolist``, ``nonzero``, an index computed
from floats) ends the run with `DataDependent`; then it is run again with them. What is made of sizes alone (`KnownNumbers`) has
its numbers.

Whatever an entry of the table is not sure of (shapes that do not fit, other dtypes) it leaves to torch, which raises or
computes as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from torchthin.graph.operators import as_outputs, tensors_in

SMALL = 4096
"""Tensors of fewer numbers are computed: it costs nothing, and positions and sizes are among them."""

FakeRule = Callable[..., Any]
"""The op's arguments -> its result without numbers; None: not sure, compute it."""

FAKE_RULES: dict[Any, FakeRule] = {}
_aten = torch.ops.aten


class DataDependent(Exception):
    """The code looks at numbers, which a run without arithmetic has not."""


class KnownNumbers:
    """Runs ops without arithmetic, and knows which results have their numbers all the same: those made of sizes alone.

    Relative positions are made so. Weights, inputs and what is drawn do not count, nor does what is made of them.
    """

    def __init__(self) -> None:
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an op, without arithmetic where the table says how."""
        given = (t for argument in (*args, *kwargs.values()) for t in tensors_in(argument))
        known = torch.Tag.nondeterministic_seeded not in func.tags and all(t in self._known for t in given)
        rule = None if known else FAKE_RULES.get(func)
        made = None if rule is None else rule(*args, **kwargs)
        if made is None:
            if not known and _asks_for_numbers(func, args, kwargs):
                raise DataDependent(str(func))
            made = func(*args, **kwargs)
        if known:
            self._known.update((tensor, True) for tensor in as_outputs(made) if tensor is not None)
        elif func._schema.is_mutable:
            self._known.clear()  # some may share the memory that was written
        return made


def _asks_for_numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (_reads_numbers(func) and not _looks_up(func, args)) or _to_integers(func, args, kwargs)


@cache
def _reads_numbers(func: Any) -> bool:
    """Whether the result, or its shape, depends on numbers in a way that code can act on; assumed of foreign ops."""
    asks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    named = func.overloadpacket in {_aten.masked_scatter, _aten.masked_scatter_}
    return named or func.namespace not in {"aten", "prim", "prims"} or bool(asks & set(func.tags))


def _looks_up(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an op looks up by positions: the shape depends on numbers only where a mask picks."""
    return func is _aten.index.Tensor and all(i is None or i.dtype not in _MASKS for i in args[1])


_MASKS = frozenset({torch.bool, torch.uint8})


def _to_integers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func is not _aten._to_copy.default or not args[0].is_floating_point():
        return False
    dtype = kwargs.get("dtype")
    return dtype is not None and not (dtype.is_floating_point or dtype.is_complex)


class ReadGuard(TorchFunctionMode):
    """Ends the run when code takes numbers, which it has not, out of a tensor past the dispatcher."""

    def __init__(self, without: Callable[[Any], bool] | None = None) -> None:
        """`without`: which tensors have no numbers; None: any."""
        super().__init__()
        self._without = without

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READERS and (self._without is None or self._without(args[0])):
            raise DataDependent(str(func))
        return func(*args, **(kwargs or {}))


class ReadWatch(TorchFunctionMode):
    """Tells when code takes numbers out of a tensor past the dispatcher."""

    def __init__(self, told: Callable[[Tensor], object]) -> None:
        """`told`: is called with the tensor."""
        super().__init__()
        self._told = told

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COPIERS:
            self._told(args[0])
        return func(*args, **(kwargs or {}))


_COPIERS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__})
_READERS = _COPIERS | {Tensor.data_ptr, Tensor.storage}


def fakes(*operators: Any) -> Callable[[FakeRule], FakeRule]:
    """Register how operators (overloads) hand out results without numbers."""

    def register(rule: FakeRule) -> FakeRule:
        FAKE_RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


@fakes(_aten.convolution.default)
def _convolution(
    data: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    rank = weight.dim()
    if data.dim() != rank or data.dtype != weight.dtype or data.device != weight.device:
        return None
    inner, out = (0, weight.shape[1] * groups) if transposed else (1, weight.shape[0])
    channels = weight.shape[inner] if transposed else weight.shape[inner] * groups
    if data.shape[1] != channels or weight.shape[0] % groups or (bias is not None and bias.shape != (out,)):
        return None
    sizes = []
    for d in range(rank - 2):
        step, pad, spread, more = (
            given[d] if len(given) > 1 else given[0] for given in (stride, padding, dilation, output_padding)
        )
        extent, size = spread * (weight.shape[2 + d] - 1), data.shape[2 + d]
        if transposed:
            sizes.append((size - 1) * step - 2 * pad + extent + more + 1)
        else:
            sizes.append((size + 2 * pad - extent - 1) // step + 1)
    if min(sizes, default=1) < 1:
        return None
    last = rank == 4 and any(_is_channels_last(t) for t in (data, weight))
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(
        (data.shape[0], out, *sizes), dtype=data.dtype, device=data.device, memory_format=layout
    )


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


@fakes(_aten.mm.default)
def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.dtype != b.dtype or a.shape[1] != b.shape[0]:
        return None
    return a.new_empty((a.shape[0], b.shape[1]))


@fakes(_aten.addmm.default)
def _addmm(addend: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Tensor | None:
    made = _mm(a, b) if addend.dtype == a.dtype else None
    return made if made is not None and _broadcasts(addend.shape, made.shape) else None


@fakes(_aten.bmm.default)
def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.dtype != b.dtype or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        return None
    return a.new_empty((a.shape[0], a.shape[1], b.shape[2]))


@fakes(_aten.baddbmm.default)
def _baddbmm(addend: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Tensor | None:
    made = _bmm(a, b) if addend.dtype == a.dtype else None
    return made if made is not None and _broadcasts(addend.shape, made.shape) else None


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    trailing = to[len(to) - len(shape) :] if shape else ()
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape, trailing, strict=True))


@fakes(_aten.native_batch_norm.default)
def _batch_norm(
    data: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    vectors = [v for v in (weight, bias, mean, variance) if v is not None]
    if training or mean is None or data.dim() < 2 or any(v.shape != data.shape[1:2] for v in vectors):
        return None
    if not _is_large(data) or any(v.dtype != data.dtype for v in vectors):
        return None
    return torch.empty_like(data), data.new_empty(0), data.new_empty(0)


@fakes(_aten.native_layer_norm.default)
def _layer_norm(
    data: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    lead = data.dim() - len(shape)
    fits = [
        tuple(shape) == data.shape[lead:],
        *(v.shape == tuple(shape) for v in (weight, bias) if v is not None),
    ]
    if (
        not all(fits)
        or not _is_large(data)
        or any(v.dtype != data.dtype for v in (weight, bias) if v is not None)
    ):
        return None
    saved = (*data.shape[:lead], *(1 for _ in shape))
    return data.new_empty(data.shape), data.new_empty(saved), data.new_empty(saved)


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() >= SMALL and tensor.is_floating_point()


@fakes(
    _aten.relu.default, _aten.silu.default, _aten.gelu.default, _aten.hardswish.default, _aten.hardtanh.default,
    _aten.sigmoid.default, _aten.hardsigmoid.default, _aten.leaky_relu.default, _aten.elu.default, _aten.tanh.default,
    _aten._softmax.default, _aten.exp.default, _aten.sqrt.default, _aten.rsqrt.default, _aten.neg.default,
)  # fmt: skip
def _like_first(data: Tensor, *more: Any, **options: Any) -> Tensor | None:
    known = _is_large(data) and not (len(more) > 1 and more[1] is True)  # softmax from half to float
    return torch.empty_like(data) if known else None


@fakes(
    _aten.relu_.default, _aten.silu_.default, _aten.hardswish_.default, _aten.hardtanh_.default, _aten.sigmoid_.default,
    _aten.leaky_relu_.default, _aten.elu_.default, _aten.hardsigmoid_.default,
)  # fmt: skip
def _in_place(data: Tensor, *more: Any, **options: Any) -> Tensor | None:
    return data if _is_large(data) else None


@fakes(_aten.add.Tensor, _aten.mul.Tensor, _aten.sub.Tensor, _aten.div.Tensor)
def _pair(a: Tensor, b: Tensor | float, **scale: Any) -> Tensor | None:
    if not _is_large(a) or isinstance(b, complex) or (isinstance(b, Tensor) and b.is_complex()):
        return None
    if isinstance(b, Tensor) and not (b.dtype == a.dtype and _broadcasts(b.shape, a.shape)):
        return None
    return torch.empty_like(a)


@fakes(_aten.add_.Tensor, _aten.mul_.Tensor, _aten.sub_.Tensor, _aten.div_.Tensor)
def _pair_in_place(a: Tensor, b: Tensor | float, **scale: Any) -> Tensor | None:
    fits = isinstance(b, Tensor) and b.dtype == a.dtype and _broadcasts(b.shape, a.shape)
    return a if _is_large(a) and fits else None


@fakes(_aten.cat.default)
def _cat(parts: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = parts[0]
    shape = list(first.shape)
    if not shape or not all(_is_large(part) and part.dtype == first.dtype for part in parts):
        return None
    dim %= len(shape)
    if any(
        [*part.shape[:dim], *part.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]] for part in parts
    ):
        return None
    shape[dim] = sum(part.shape[dim] for part in parts)
    last = len(shape) == 4 and all(_is_channels_last(part) for part in parts)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)


@fakes(_aten.clone.default)
def _clone(data: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    if not _is_large(data):
        return None
    return torch.empty_like(data, memory_format=memory_format or torch.preserve_format)

"""ATen operators: the families that several rooms ask for, and what the schema of an operator says.

An operator is named without overload (``aten.mm``). A family is written down here once; operators that only one rule handles
are listed at that rule. Composite operators (``aten.linear``, ``aten.reshape``) are in no family: torch takes them apart before a
dispatch mode sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """The arguments of an operator that sums over channels, by their names in its schema."""

    data: str
    weight: str
    bias: str | None
    """None: the operator adds nothing."""


CONVOLUTIONS = {
    "aten.convolution": Operands("input", "weight", "bias"),
    "aten._convolution": Operands("input", "weight", "bias"),
}
MATRIX_PRODUCTS = {
    "aten.mm": Operands("self", "mat2", None),
    "aten.addmm": Operands("mat1", "mat2", "self"),
    "aten.addmm_": Operands("mat1", "mat2", "self"),
    "aten._addmm_activation": Operands("mat1", "mat2", "self"),
}
BATCHED_PRODUCTS = {
    "aten.bmm": Operands("self", "mat2", None),
    "aten.baddbmm": Operands("batch1", "batch2", "self"),
    "aten.baddbmm_": Operands("batch1", "batch2", "self"),
}
GROUPED_PRODUCTS = {"aten._grouped_mm": Operands("self", "mat2", None)}
"""Products of rows and experts; a bias is not supported."""
GROUPED_BYTES = 16
"""Their kernels take rows of whole so many bytes."""
PRODUCTS = {**MATRIX_PRODUCTS, **BATCHED_PRODUCTS}
"""Products of matrices, (..., m, k) x (..., k, n)."""
CONTRACTIONS = {**CONVOLUTIONS, **PRODUCTS, **GROUPED_PRODUCTS}
"""Operators that multiply data and a weight and sum over channels."""
LAYER_PRODUCTS = {name: CONTRACTIONS[name] for name in ("aten.convolution", "aten.mm", "aten.addmm")}
"""What convolutions and linear layers are recorded as."""

ATTENTION = frozenset({
    "aten._scaled_dot_product_flash_attention_for_cpu", "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_fused_attention_overrideable",
})  # fmt: skip
"""Fused attention; arguments ``query``, ``key``, ``value``."""

EMBEDDINGS = frozenset({
    "aten.embedding", "aten._embedding_bag", "aten._embedding_bag_forward_only",
})  # fmt: skip
"""Rows of the argument ``weight``, looked up by number."""

BATCH_NORMS = frozenset({
    "aten.native_batch_norm", "aten._native_batch_norm_legit", "aten._native_batch_norm_legit_no_training",
    "aten._native_batch_norm_legit_functional", "aten.cudnn_batch_norm", "aten.miopen_batch_norm",
    "aten._batch_norm_no_update", "aten._batch_norm_with_update",
})  # fmt: skip
LAYER_NORMS = frozenset({"aten.native_layer_norm", "aten._fused_rms_norm"})
"""Statistics over the last axes, ``normalized_shape``."""
RMS_NORMS = frozenset({"aten._fused_rms_norm"})
"""Those that divide by a size alone, so that zeros stay zeros."""

MAX_POOLS_2D = frozenset({"aten.max_pool2d_with_indices"})
AVERAGE_POOLS_2D = frozenset({"aten.avg_pool2d"})
ADAPTIVE_POOLS_2D = frozenset({"aten._adaptive_avg_pool2d", "aten.adaptive_max_pool2d"})
POOLS = frozenset({
    *MAX_POOLS_2D, *AVERAGE_POOLS_2D, *ADAPTIVE_POOLS_2D, "aten.max_pool3d_with_indices", "aten.avg_pool3d",
    "aten._adaptive_avg_pool3d", "aten.adaptive_max_pool3d",
})  # fmt: skip
"""1-d pooling is recorded as 2-d over one row."""

VIEWS = frozenset({"aten.view", "aten._unsafe_view", "aten._reshape_alias"})
"""Operators that regroup axes to the argument ``size``."""
SQUEEZES = frozenset({"aten.squeeze", "aten.squeeze_", "aten.unsqueeze", "aten.unsqueeze_"})
SPLITS = frozenset({
    "aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes",
})  # fmt: skip
MOVES = VIEWS | SPLITS | frozenset({
    "aten.transpose", "aten.permute", "aten.t", "aten.slice", "aten.select", "aten.unbind", "aten.expand",
    "aten.unsqueeze", "aten.squeeze", "aten.clone", "aten.alias",
})  # fmt: skip
"""Operators out of place whose results hold numbers of their first argument and no others."""

UNDECLARED_VIEWS = frozenset({
    "aten._unsafe_view", "aten.unsafe_split", "aten.unsafe_split_with_sizes", "aten.unsafe_chunk", "aten.lift",
})  # fmt: skip
"""Their results share storage with what goes in, although their schema does not say so."""

UNWRITTEN = frozenset({
    "aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty_strided",
    "aten.empty_permuted",
})  # fmt: skip
"""Their results hold whatever the memory held: code writes them afterwards, all or in part."""

SCALINGS = frozenset({"aten.mul", "aten.mul_", "aten.div", "aten.div_"})
DIVISIONS = frozenset(
    f"aten.{name}{place}" for name in ("div", "floor_divide", "remainder", "fmod") for place in ("", "_")
)
ADDITIONS = frozenset({"aten.add", "aten.add_"})
LINEAR_ELEMENTWISE = frozenset({"aten.mul", "aten.div", "aten.neg", "aten.add", "aten.sub"})
"""Out of place: a factor of the first argument is one of the result, but for what is added."""


@cache
def operator_name(target: torch._ops.OpOverload) -> str:
    """Return an operator's name without overload; torch puts it together at every look."""
    return str(target.overloadpacket)


def same_family(one: str, other: str) -> bool:
    """Whether two operators, by name, do the same with arguments of the same names: which of them runs is a matter of layout."""
    return one == other or (one in VIEWS and other in VIEWS)


@cache
def may_share(func: Any) -> bool:
    """Whether a result of an op may share storage with what goes in, or be it: its schema says so, or there is none to trust."""
    known = func.namespace == "aten" and operator_name(func) not in UNDECLARED_VIEWS
    return not known or any(result.alias_info is not None for result in func._schema.returns)


@cache
def is_composite(func: Any) -> bool:
    """Whether an op is made of others on every device; Python decompositions, which only tracers ask for, do not count."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


@cache  # torch makes a new Python list of the tags at every look
def is_inplace_view(func: Any) -> bool:
    """Whether an op changes the shape of the tensor that it is given (``squeeze_``)."""
    return torch.Tag.inplace_view in func.tags


def storage_key(tensor: Tensor) -> int:
    """Return a number that tensors with the same live storage share."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(argument: Any) -> Iterator[Tensor]:
    """Yield the tensors of an op argument (a tensor, or a list that may hold some)."""
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, (list, tuple)):
        yield from (item for item in argument if isinstance(item, Tensor))


def as_outputs(result: Any) -> list[Tensor | None]:
    """Return an op's results as a flat list of tensors; what is no tensor is None."""
    items = result if isinstance(result, (list, tuple)) else [result]
    flat: list[Tensor | None] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            flat.extend(t if isinstance(t, Tensor) else None for t in item)
        else:
            flat.append(item if isinstance(item, Tensor) else None)
    return flat


@cache  # torch makes new Python objects of the schema at every look
def argument_names(func: Any) -> tuple[str, ...]:
    """Return the names of an op's arguments in the order of its schema."""
    return tuple(argument.name for argument in func._schema.arguments)


@cache
def written_arguments(func: Any) -> tuple[str, ...]:
    """Return the names of the arguments that an op changes in place."""
    return tuple(a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)


def by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an op by the names in its schema."""
    return {**dict(zip(argument_names(func), args, strict=False)), **kwargs}


def invoke(func: Any, given: Mapping[str, Any]) -> Any:
    """Call an op with arguments by name (ops refuse names for some positional arguments)."""
    args = []
    kwargs = {}
    for argument in func._schema.arguments:
        if argument.kwarg_only:
            if argument.name in given:
                kwargs[argument.name] = given[argument.name]
        else:
            args.append(given.get(argument.name, argument.default_value))
    return func(*args, **kwargs)

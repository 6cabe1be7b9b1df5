"""Small calls of ATen operators for the oracle: at least one for every operator that has a rule of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

A = torch.ops.aten


@dataclass(frozen=True)
class Sample:
    """A call of one operator (`function` on `tensors`)."""

    op: str
    function: Callable[..., Any]
    tensors: tuple[Tensor, ...]


SAMPLES: list[Sample] = []
_GENERATOR = torch.Generator().manual_seed(0)


def real(*shape: int) -> Tensor:
    """Random positive numbers, away from zero (so that logarithms and powers exist)."""
    return torch.rand(shape, generator=_GENERATOR, dtype=torch.float64) + 0.1


def whole(high: int, *shape: int) -> Tensor:
    """Random integers below `high`."""
    return torch.randint(high, shape, generator=_GENERATOR)


def mask(*shape: int) -> Tensor:
    """Random booleans."""
    return torch.rand(shape, generator=_GENERATOR) < 0.5


def add(op: str, function: Callable[..., Any], *tensors: Tensor) -> None:
    """Enter a sample."""
    SAMPLES.append(Sample("aten." + op, function, tensors))


def composite(op: str, function: Callable[..., Any], *tensors: Tensor) -> None:
    """Enter a sample of an operator made of others, called where torch would show it whole: in inference mode."""

    def whole_call(*given: Tensor) -> Any:
        with torch.inference_mode():
            return function(*given)

    SAMPLES.append(Sample("composite." + op, whole_call, tensors))


def written(op: str, function: Callable[..., Any], *tensors: Tensor) -> None:
    """Enter a sample of an operator that changes its first argument."""

    def on_copy(first: Tensor, *rest: Tensor) -> Any:
        target = first.clone()
        function(target, *rest)
        return target

    add(op, on_copy, *tensors)


X = real(2, 6, 4)
IMAGE = real(2, 6, 4, 4)
VOLUME = real(1, 4, 3, 4, 4)

# contractions
add(
    "convolution",
    lambda x, w, b: A.convolution(x, w, b, [1, 1], [1, 0], [1, 1], False, [0, 0], 1),
    IMAGE,
    real(8, 6, 3, 1),
    real(8),
)
for bias in (True, False):
    extra = (lambda n: (real(n),)) if bias else (lambda n: ())
    none = () if bias else (None,)
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        IMAGE,
        real(8, 6, 3, 3),
        *extra(8),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 3),
        IMAGE,
        real(9, 2, 3, 3),
        *extra(9),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
        IMAGE,
        real(8, 3, 3, 3),
        *extra(8),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 6),
        IMAGE,
        real(6, 1, 3, 3),
        *extra(6),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [1, 1], [1, 1], False, [0, 0], 6),
        IMAGE,
        real(12, 1, 3, 3),
        *extra(12),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [2, 2], [1, 1], [1, 1], True, [0, 0], 1),
        IMAGE,
        real(6, 8, 3, 3),
        *extra(8),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [2, 2], [1, 1], [1, 1], True, [0, 0], 2),
        IMAGE,
        real(6, 4, 3, 3),
        *extra(8),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [2, 2], [1, 1], [1, 1], True, [0, 0], 6),
        IMAGE,
        real(6, 1, 3, 3),
        *extra(6),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [2, 2], [1, 1], [1, 1], True, [0, 0], 6),
        IMAGE,
        real(6, 2, 3, 3),
        *extra(12),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1], [1], [1], False, [0], 1),
        X,
        real(8, 6, 3),
        *extra(8),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1], [0], [1], False, [0], 2),
        X,
        real(1 * 2, 3, 3),
        *extra(2),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(
            x, w, *(b or (None,)), [1, 1, 1], [1, 1, 1], [1, 1, 1], False, [0, 0, 0], 1
        ),
        VOLUME,
        real(3, 4, 3, 3, 3),
        *extra(3),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        real(2, 1, 4, 4),
        real(5, 1, 3, 3),
        *extra(5),
    )
    add(
        "convolution",
        lambda x, w, *b: A.convolution(x, w, *(b or (None,)), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        IMAGE,
        real(1, 6, 3, 3),
        *extra(1),
    )
add(
    "_convolution",
    lambda x, w, b: A._convolution(
        x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 2, False, False, True, True
    ),
    IMAGE,
    real(8, 3, 3, 3),
    real(8),
)
add("mm", A.mm, real(4, 6), real(6, 5))
add("mm", lambda x: A.mm(x, x.t()), real(4, 6))
add("addmm", A.addmm, real(5), real(4, 6), real(6, 5))
add("addmm", A.addmm, real(4, 5), real(4, 6), real(6, 5))
add("addmm", lambda b, x, w: A.addmm(b, x, w, beta=0.5, alpha=2), real(4, 1), real(4, 6), real(6, 5))
written("addmm_", A.addmm_, real(4, 5), real(4, 6), real(6, 5))
add("bmm", A.bmm, real(3, 4, 6), real(3, 6, 5))
add("baddbmm", A.baddbmm, real(3, 4, 5), real(3, 4, 6), real(3, 6, 5))
add("baddbmm", A.baddbmm, real(1, 1, 5), real(3, 4, 6), real(3, 6, 5))
written("baddbmm_", A.baddbmm_, real(3, 4, 5), real(3, 4, 6), real(3, 6, 5))
for unit in (True, False):
    solve = partial(A.linalg_solve_triangular, upper=False, unitriangular=unit)
    add("linalg_solve_triangular", solve, real(3, 4, 4), real(3, 4, 5))
    add("linalg_solve_triangular", solve, real(4, 4), real(3, 4, 5))
    add("linalg_solve_triangular", partial(solve, left=False), real(3, 4, 4), real(3, 5, 4))
add("avg_pool2d", lambda x: A.avg_pool2d(x, [2, 1], [2, 1]), real(2, 3, 4, 6))
add("addbmm", A.addbmm, real(4, 5), real(3, 4, 6), real(3, 6, 5))
add("_addmm_activation", A._addmm_activation, real(5), real(4, 6), real(6, 5))
composite("linear", A.linear, real(2, 3, 6), real(5, 6), real(5))
composite("linear", A.linear, real(3, 6), real(5, 6))
composite("matmul", A.matmul, real(2, 3, 6), real(2, 6, 5))
composite("matmul", A.matmul, real(6), real(2, 6, 5))
composite("matmul", A.matmul, real(2, 3, 6), real(6))
composite("matmul", A.matmul, real(4, 1, 3, 6), real(2, 6, 5))
add("mv", A.mv, real(4, 6), real(6))
add("addmv", A.addmv, real(4), real(4, 6), real(6))
add("addr", A.addr, real(4, 6), real(4), real(6))
add("dot", A.dot, real(6), real(6))
add("vdot", A.vdot, real(6), real(6))
add(
    "_trilinear",
    lambda x, w, y: A._trilinear(x, w, y, [1, 3], [0], [1, 2], [2, 3]),
    real(5, 4),
    real(3, 4, 6),
    real(5, 6),
)
add("_cdist_forward", lambda x, y: A._cdist_forward(x, y, 2.0, None), real(2, 4, 6), real(2, 3, 6))
add("_euclidean_dist", A._euclidean_dist, real(4, 6), real(3, 6))

# attention and embedding
HEADS = [(2, 4, 3, 6), (2, 4, 5, 6), (2, 4, 5, 7)]
add(
    "_scaled_dot_product_flash_attention_for_cpu",
    lambda q, k, v: A._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=0.3)[0],
    real(2, 4, 3, 6),
    real(2, 4, 5, 6),
    real(2, 4, 5, 6),
)
add(
    "_scaled_dot_product_flash_attention_for_cpu",
    lambda q, k, v, m: A._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=m, scale=0.3)[0],
    real(2, 4, 3, 6),
    real(2, 4, 5, 6),
    real(2, 4, 5, 6),
    real(2, 4, 3, 5),
)
composite(
    "scaled_dot_product_attention",
    lambda q, k, v: A.scaled_dot_product_attention(q, k, v, scale=0.3),
    real(2, 4, 3, 6),
    real(2, 4, 5, 6),
    real(2, 4, 5, 6),
)
add("embedding", A.embedding, real(9, 6), whole(9, 2, 4))
add(
    "_embedding_bag",
    lambda w, i, o: A._embedding_bag(w, i, o)[0],
    real(9, 6),
    whole(9, 8),
    torch.tensor([0, 3]),
)

# elementwise
add("copy_", lambda x, y: A.copy_(x.clone(), y), X, real(6, 1))
add("native_dropout", lambda x: A.native_dropout(x, 0.5, False), X)
add("alias", A.alias, X)
add("clone", A.clone, X)
add("_to_copy", lambda x: A._to_copy(x, dtype=torch.int64), X * 10)
add("lift_fresh", A.lift_fresh, X)
add("lift_fresh_copy", A.lift_fresh_copy, X)
add("_prelu_kernel", A._prelu_kernel, X - 0.5, real(1, 6, 1))
composite("prelu", A.prelu, X - 0.5, real(6))
composite("prelu", A.prelu, X - 0.5, real(1))
add("zeros_like", A.zeros_like, X)
add("ones_like", A.ones_like, X)
add("empty_like", A.empty_like, X)
add("full_like", lambda x: A.full_like(x, 2.0), X)
written("fill_", lambda x: A.fill_(x, 2.0), X)
written("zero_", A.zero_, X)
written("resize_", lambda x: A.resize_(x, list(x.shape)), X)
add("fill", lambda x: A.fill(x, 2.0), X)
add("masked_fill", lambda x, m: A.masked_fill(x, m, 0.0), X, mask(6, 1))
add("masked_fill", lambda x, m: A.masked_fill(x, m, 0.5), X, mask(6, 1))
add("masked_fill", lambda x, m, v: A.masked_fill(x, m, v.sum()), X, mask(6, 1), real(3))
written("masked_fill_", lambda x, m: A.masked_fill_(x, m, 0.0), X, mask(2, 6, 4))
add("lerp", A.lerp, X, real(6, 4), real(2, 1, 4))
add("where", A.where, mask(6, 1), X, real(2, 1, 4))
add("where", lambda m, x: A.where(m, x, 0.0), mask(2, 6, 4), X)
add("where", lambda m, x: A.where(m, x, 0.5), mask(2, 6, 4), X)
add("addcmul", A.addcmul, X, real(6, 4), real(4))
add("mul", A.mul, X, real(6, 1))
add("mul", A.mul, X, real(4))
add("div", A.div, X, real(6, 1))
written("mul_", A.mul_, real(6, 4), real(4))
written("div_", A.div_, real(6, 4), real(4))
add("add", A.add, X, real(6, 1))
add("add", A.add, real(6, 1), real(1, 4))
written("add_", A.add_, X, real(6, 1))
written("mul_", A.mul_, X, real(4))
add("clamp", lambda x, y: A.clamp(x, y), X, real(6, 1))
add("pow", lambda x: A.pow(2.0, x), X)
add("view_as_real", lambda x: A.view_as_real(A.complex(x, x)), X)
add("view_as_complex", lambda x: A.view_as_real(A.view_as_complex(x)), real(3, 6, 2))
add(
    "rrelu_with_noise",
    lambda x: A.rrelu_with_noise(x, torch.ops.aten.zeros_like(x), 0.1, 0.1, False),
    X - 0.5,
)
add("log_sigmoid_forward", lambda x: A.log_sigmoid_forward(x)[0], X)
add(
    "fake_quantize_per_tensor_affine_cachemask",
    lambda x: A.fake_quantize_per_tensor_affine_cachemask(x, 0.1, 0, 0, 255),
    X,
)
add(
    "fake_quantize_per_channel_affine_cachemask",
    lambda x, s, z: A.fake_quantize_per_channel_affine_cachemask(x, s, z, 1, 0, 255),
    X.float(),
    real(6).float(),
    whole(9, 6).int(),
)
OFF, ON = torch.tensor([0]), torch.tensor([1])
for observes in (OFF, ON):
    state = (torch.full((6,), -1.0), torch.full((6,), 2.0), real(6).float(), whole(9, 6).int())
    for rows, given in ((True, state), (False, tuple(tensor[:1] for tensor in state))):
        add(
            "_fused_moving_avg_obs_fq_helper",
            lambda x, low, high, scale, zero, on=observes, rows=rows: A._fused_moving_avg_obs_fq_helper(
                x, on, ON, low, high, scale, zero, 0.01, 0, 255, 0, rows, False
            )[0],
            real(6, 4).float(),
            *given,
        )
add("glu", lambda x: A.glu(x, 1), X)
add("glu", lambda x: A.glu(x, -1), X)
composite("dropout", lambda x: A.dropout(x, 0.5, False), X)
composite("contiguous", lambda x: A.contiguous(x.mT), X)
composite("to", lambda x: A.to(x, torch.float32), X)
composite("expand_as", A.expand_as, real(1, 6, 4), X)
composite("view_as", A.view_as, real(12, 4), X)
composite("broadcast_tensors", lambda x, y: A.broadcast_tensors([x, y]), X, real(6, 1))
composite("type_as", A.type_as, X, real(3).float())
add("_foreach_add", lambda x, y: A._foreach_add([x, y], 1.0), X, real(6, 1))
add("_foreach_mul", lambda x, y: A._foreach_mul([x, y], 2.0), X, real(6, 1))
add("_foreach_add", lambda x, y: A._foreach_add([x, y], [y, y]), real(4, 6), real(4, 6))
for name in (
    "celu",
    "elu",
    "hardshrink",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "mish",
    "softplus",
    "softshrink",
    "rad2deg",
):
    add(name, lambda x, name=name: getattr(A, name)(x), X - 0.5)
for name in ("celu_", "elu_", "hardsigmoid_", "hardtanh_", "leaky_relu_", "rad2deg_"):
    written(name, lambda x, name=name: getattr(A, name)(x), X - 0.5)
add("threshold", lambda x: A.threshold(x, 0.3, 0.1), X)

# creation
add("zeros", lambda x: x + A.zeros([6, 4], dtype=torch.float64), X)
add("ones", lambda x: x + A.ones([6, 1], dtype=torch.float64), X)
add("empty", lambda x: A.empty([6, 4]).fill_(1.0) + x, X)
add("full", lambda x: x + A.full([2, 6, 4], 3.0), X)
add("arange", lambda x: x * A.arange(4), X)
add("arange", lambda x: x * A.arange(0, 8, 2), X)
add("linspace", lambda x: x * A.linspace(0, 1, 4), X)
add("logspace", lambda x: x * A.logspace(0, 1, 4), X)
add("new_zeros", lambda x: x + A.new_zeros(x, [6, 4]), X)
add("new_ones", lambda x: x + A.new_ones(x, [6, 4]), X)
add("new_empty", lambda x: A.new_empty(x, [6, 4]).fill_(1.0) + x, X)
add("new_full", lambda x: x + A.new_full(x, [6, 4], 2.0), X)
add("new_empty_strided", lambda x: A.new_empty_strided(x, [6, 4], [4, 1]).fill_(1.0) + x, X)
add("empty_strided", lambda x: A.empty_strided([6, 4], [4, 1]).fill_(1.0) + x, X)
add("scalar_tensor", lambda x: x * A.scalar_tensor(2.0), X)
add("eye", lambda x: x @ A.eye(4, dtype=torch.float64), X)
add("eye", lambda x: x @ A.eye(4, 3, dtype=torch.float64), X)
for name in ("rand", "randn"):
    add(name, lambda x, name=name: x * getattr(A, name)([6, 4]), X)
add("randint", lambda x: x * A.randint(5, [6, 4]), X)
add("randperm", lambda x: x * A.randperm(4), X)
for name in ("rand_like", "randn_like", "bernoulli"):
    add(name, lambda x, name=name: getattr(A, name)(x.clamp(max=1)), X)
for name in ("uniform_", "normal_", "bernoulli_", "exponential_"):
    written(name, lambda x, name=name: getattr(A, name)(x), X)
add("multinomial", lambda x: A.multinomial(x, 3), real(2, 6))

# movement
add("permute", lambda x: A.permute(x, [2, 0, 1]), X)
add("permute", lambda x: A.permute(x, [0, -1, 1]), X)
add("transpose", lambda x: A.transpose(x, 1, -1), X)
written("transpose_", lambda x: A.transpose_(x, 0, 1), X)
add("t", A.t, real(4, 6))
add("t", A.t, real(4))
add("unsqueeze", lambda x: A.unsqueeze(x, -1), X)
add("unsqueeze", lambda x: A.unsqueeze(x, 1), X)
written("unsqueeze_", lambda x: A.unsqueeze_(x, 1), X)
add("squeeze", A.squeeze, real(1, 6, 1, 4))
add("squeeze", lambda x: A.squeeze(x, 2), real(1, 6, 1, 4))
add("squeeze", lambda x: A.squeeze(x, [0, 1, 2]), real(1, 6, 1, 4))
written("squeeze_", A.squeeze_, real(1, 6, 1, 4))
add("expand", lambda x: A.expand(x, [3, 6, 4]), real(6, 1))
add("expand", lambda x: A.expand(x, [-1, 6, 4]), real(3, 1, 4))
add("flip", lambda x: A.flip(x, [1]), X)
add("flip", lambda x: A.flip(x, [0, -1]), X)
for name in ("triu", "tril"):
    add(name, getattr(A, name), real(2, 4, 4))
    written(name + "_", getattr(A, name + "_"), real(4, 6))
add("roll", lambda x: A.roll(x, [1], [1]), X)
add("roll", lambda x: A.roll(x, [-2], [-1]), X)
add("roll", lambda x: A.roll(x, [2, 1], [1, 2]), X)
add("roll", lambda x: A.roll(x, [5]), X)
add("roll", lambda x: A.roll(x, [6], [1]), X)
add("rot90", lambda x: A.rot90(x, 1, [1, 2]), X)
add("constant_pad_nd", lambda x: A.constant_pad_nd(x, [1, 2, 0, 3], 0.5), X)
add("constant_pad_nd", lambda x: A.constant_pad_nd(x, [-1, 2]), X)
add("repeat", lambda x: A.repeat(x, [2, 1, 3]), X)
add("repeat", lambda x: A.repeat(x, [2, 2, 1, 1]), X)
for start, stop, step in (
    (0, 3, 1),
    (3, 6, 1),
    (1, 4, 1),
    (0, 6, 2),
    (1, 6, 2),
    (0, 5, 3),
    (2, 100, 1),
    (-2, 100, 1),
    (0, -1, 1),
):
    add("slice", lambda x, a=start, b=stop, c=step: A.slice(x, 1, a, b, c), X)
composite("narrow", lambda x: A.narrow(x, 1, 2, 3), X)
add("slice_scatter", lambda x, y: A.slice_scatter(x, y, 1, 2, 5), X, real(2, 3, 4))
add("slice_scatter", lambda x, y: A.slice_scatter(x, y, 1, 0, 6, 2), X, real(2, 3, 4))
add("slice_scatter", lambda x, y: A.slice_scatter(x, y, 0, 0, 1), X, real(1, 6, 4))
add("select_scatter", lambda x, y: A.select_scatter(x, y, 1, 2), X, real(2, 4))
add("split", lambda x: A.split(x, 3, 1), X)
add("split", lambda x: A.split(x, 4, 1), X)
add("split", lambda x: A.split(x, 2, -1), X)
add("split", lambda x: A.split(x, 1, 0), X)
add("split_with_sizes", lambda x: A.split_with_sizes(x, [1, 3, 2], 1), X)
add("split_with_sizes", lambda x: A.split_with_sizes(x, [3, 3], 1), X)
add("unsafe_split", lambda x: A.unsafe_split(x, 3, 1), X)
add("unsafe_split_with_sizes", lambda x: A.unsafe_split_with_sizes(x, [2, 4], 1), X)
composite("chunk", lambda x: A.chunk(x, 3, 1), X)
composite("tensor_split", lambda x: A.tensor_split(x, 3, 1), X)
composite("tensor_split", lambda x: A.tensor_split(x, [1, 4], 1), X)
add("select", lambda x: A.select(x, 1, 2), X)
add("unbind", lambda x: A.unbind(x, 1), X)
add("unbind", A.unbind, X)
add("diagonal", lambda x: A.diagonal(x, 0, 1, 2), real(2, 4, 4))
add("diag_embed", A.diag_embed, real(2, 4))
composite("diag", A.diag, real(4))
add("cat", lambda x, y: A.cat([x, y], 1), X, real(2, 3, 4))
add("cat", lambda x, y: A.cat([x, y, x], -1), X, real(2, 6, 5))
add("cat", lambda x: A.cat([x, A.zeros([2, 2, 4], dtype=torch.float64)], 1), X)
add("cat", lambda x, y: A.cat([A.empty([0]), x, y], 0), X, real(1, 6, 4))
composite("concat", lambda x, y: A.concat([x, y], 1), X, real(2, 3, 4))
add("stack", lambda x, y: A.stack([x, y], 1), X, X)
add("stack", lambda x, y: A.stack([x, y], -1), X, X)
composite("hstack", lambda x, y: A.hstack([x, y]), X, X)
composite("vstack", lambda x, y: A.vstack([x, y]), X, X)
for shape in (
    (2, 24),
    (12, 4),
    (48,),
    (2, 3, 2, 4),
    (2, 2, 3, 4),
    (2, 6, 2, 2),
    (2, 3, 8),
    (4, 12),
    (2, 6, 1, 4),
    (1, 2, 6, 4),
    (2, 8, 3),
    (6, 2, 4),
):
    add("view", lambda x, s=shape: A.view(x, s), X)
add("view", lambda x: A.view(x, [6, 4]), real(6, 4))
add("view", lambda x: A.view(x, [-1]), real(6))
add("view", lambda x: A.view(x, [2, 3, 4]), real(24))
add("view", lambda x: A.view(x, [4, 6]), real(24))
add("view", lambda x: A.view(x, torch.int64).view(torch.float64), X)
add("_unsafe_view", lambda x: A._unsafe_view(x, [12, 4]), X)
composite("reshape", lambda x: A.reshape(x.mT, [2, 24]), X)
composite("flatten", lambda x: A.flatten(x, 1), X)
composite("flatten", lambda x: A.flatten(x, 1, 2), IMAGE)
composite("unflatten", lambda x: A.unflatten(x, 1, [2, 3]), X)
add("_reshape_alias", lambda x: A._reshape_alias(x, [12, 4], [4, 1]), X)
add("pixel_shuffle", lambda x: A.pixel_shuffle(x, 2), real(2, 12, 3, 3))
add("pixel_shuffle", lambda x: A.pixel_shuffle(x, 2), real(12, 3, 3))
add("pixel_shuffle", lambda x: A.pixel_shuffle(x, 2), real(2, 4, 3, 3))
add("pixel_unshuffle", lambda x: A.pixel_unshuffle(x, 2), real(2, 3, 4, 4))
add("pixel_unshuffle", lambda x: A.pixel_unshuffle(x, 2), real(3, 4, 4))
add("channel_shuffle", lambda x: A.channel_shuffle(x, 2), IMAGE)
add("channel_shuffle", lambda x: A.channel_shuffle(x, 3), IMAGE)
add("native_channel_shuffle", lambda x: A.native_channel_shuffle(x, 3), IMAGE)
add("unfold", lambda x: A.unfold(x, 2, 3, 1), X)
add("unfold", lambda x: A.unfold(x, 1, 2, 2), X)
add("im2col", lambda x: A.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1]), IMAGE)
add("im2col", lambda x: A.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1]), real(6, 4, 4))
add("col2im", lambda x: A.col2im(x, [4, 4], [2, 2], [1, 1], [0, 0], [2, 2]), real(2, 12, 4))
add("col2im", lambda x: A.col2im(x, [4, 4], [2, 2], [1, 1], [0, 0], [2, 2]), real(12, 4))
add("as_strided", lambda x: A.as_strided(x, [2, 6, 4], [24, 4, 1]), X)
add("as_strided", lambda x: A.as_strided(x, [3, 2], [2, 1], 1), X)
composite("movedim", lambda x: A.movedim(x, [1], [2]), X)
composite("swapaxes", lambda x: A.swapaxes(x, 1, 2), X)
composite("meshgrid", lambda x, y: A.meshgrid([x, y]), real(4), real(6))
composite("broadcast_to", lambda x: A.broadcast_to(x, [2, 6, 4]), real(6, 1))
composite("repeat_interleave", lambda x: A.repeat_interleave(x, 2, 1), X)
composite("numpy_T", A.numpy_T, real(4, 6))

# indexing
add("index", lambda x, i: A.index(x, [None, i]), X, whole(6, 5))
add("index", lambda x, i: A.index(x, [i]), X, whole(2, 3, 3))
add("index", lambda x, i, j: A.index(x, [i, None, j]), X, whole(2, 5), whole(4, 5))
add("index", lambda x, i, j: A.index(x, [None, i, j]), X, whole(6, 5), whole(4, 5))
add("index", lambda x, i, j: A.index(x, [None, i, j]), X, whole(6, 3, 1), whole(4, 5))
add("index", lambda x: A.index(x, [None, torch.tensor([5, 1, 3])]), X)
add("index", lambda x, m: A.index(x, [m]), X, mask(2, 6))
add("_unsafe_index", lambda x, i: A._unsafe_index(x, [None, i]), X, whole(6, 5))
add("index_put", lambda x, i, v: A.index_put(x, [i], v), X, torch.tensor([1]), real(6, 4))
add("index_put", lambda x, i, v: A.index_put(x, [None, i], v), X, torch.tensor([1, 3]), real(2, 2, 4))
add("index_put", lambda x, i, v: A.index_put(x, [None, None, i], v), X, torch.tensor([1, 3]), real(2, 6, 2))
add("index_put", lambda x, i, v: A.index_put(x, [i, None, i], v), X, torch.tensor([1, 0]), real(2, 6))
add("index_put", lambda x, m: A.index_put(x, [m], torch.tensor(0.0, dtype=torch.float64)), X, mask(2, 6, 4))
add("index_put", lambda x, m: A.index_put(x, [m], torch.tensor(0.5, dtype=torch.float64)), X, mask(2, 6, 4))
add("index_put", lambda x, m: A.index_put(x, [m], torch.tensor(0.5, dtype=torch.float64)), X, mask(2, 6))
written("index_put_", lambda x, i, v: A.index_put_(x, [i], v), X, torch.tensor([1]), real(6, 4))
add("_unsafe_index_put", lambda x, i, v: A._unsafe_index_put(x, [i], v), X, torch.tensor([1]), real(6, 4))
add("index_select", lambda x, i: A.index_select(x, 1, i), X, whole(6, 4))
add("gather", lambda x, i: A.gather(x, 1, i), X, whole(6, 2, 3, 4))
add("gather", lambda x, i: A.gather(x, 2, i), X, whole(4, 2, 6, 3))
add("gather", lambda x, i: A.gather(x, 2, i), X, whole(4, 2, 5, 3))
composite("take_along_dim", lambda x, i: A.take_along_dim(x, i, 1), X, whole(6, 2, 3, 4))
composite("take_along_dim", lambda x, i: A.take_along_dim(x, i, 1), X, whole(6, 1, 3, 1))
add("index_fill", lambda x, i: A.index_fill(x, 1, i, 0.5), X, torch.tensor([1, 3]))
add("index_fill", lambda x, i: A.index_fill(x, 1, i, 0.0), X, torch.tensor([1, 3]))
written("index_fill_", lambda x, i: A.index_fill_(x, 1, i, 0.0), X, torch.tensor([1, 3]))
add("scatter", lambda x, i, v: A.scatter(x, 1, i, v), X, whole(6, 2, 1, 4), real(2, 1, 4))
add("scatter", lambda x, i: A.scatter(x, 1, i, 1.0), X, whole(6, 2, 1, 4))
add("scatter_add", lambda x, i, v: A.scatter_add(x, 1, i, v), X, whole(6, 2, 3, 4), real(2, 3, 4))
add(
    "scatter_reduce", lambda x, i, v: A.scatter_reduce(x, 1, i, v, "sum"), X, whole(6, 2, 3, 4), real(2, 3, 4)
)
written("scatter_", lambda x, i, v: A.scatter_(x, 1, i, v), X, whole(6, 2, 1, 4), real(2, 1, 4))
written("scatter_add_", lambda x, i, v: A.scatter_add_(x, 1, i, v), X, whole(6, 2, 3, 4), real(2, 3, 4))
written(
    "scatter_reduce_",
    lambda x, i, v: A.scatter_reduce_(x, 1, i, v, "sum"),
    X,
    whole(6, 2, 3, 4),
    real(2, 3, 4),
)
add("index_add", lambda x, i, v: A.index_add(x, 1, i, v), X, torch.tensor([1, 3]), real(2, 2, 4))
written("index_add_", lambda x, i, v: A.index_add_(x, 1, i, v), X, torch.tensor([1, 3]), real(2, 2, 4))
add("index_copy", lambda x, i, v: A.index_copy(x, 1, i, v), X, torch.tensor([1, 3]), real(2, 2, 4))
written("index_copy_", lambda x, i, v: A.index_copy_(x, 1, i, v), X, torch.tensor([1, 3]), real(2, 2, 4))
add("masked_select", A.masked_select, X, mask(2, 6, 4))
add("masked_scatter", A.masked_scatter, X, mask(2, 6, 4), real(48))
add("nonzero", A.nonzero, mask(4, 6))
add("bincount", A.bincount, whole(6, 9))
add("searchsorted", A.searchsorted, real(6).sort()[0], real(4))
add("bucketize", A.bucketize, real(4), real(6).sort()[0])
add("take", A.take, X, whole(48, 5))

# normalisation
V = real(6)
add(
    "native_batch_norm",
    lambda x, w, b, m, v: A.native_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0],
    IMAGE,
    real(6),
    real(6),
    real(6),
    real(6),
)
add(
    "native_batch_norm",
    lambda x, m, v: A.native_batch_norm(x, None, None, m, v, False, 0.1, 1e-5)[0],
    IMAGE,
    real(6),
    real(6),
)
add(
    "native_batch_norm",
    lambda x, w: A.native_batch_norm(x, w, None, None, None, True, 0.1, 1e-5),
    IMAGE,
    real(6),
)
add(
    "_native_batch_norm_legit_no_training",
    lambda x, w, b, m, v: A._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-5)[0],
    IMAGE,
    real(6),
    real(6),
    real(6),
    real(6),
)
add(
    "_native_batch_norm_legit",
    lambda x, w, b: A._native_batch_norm_legit(x, w, b, True, 0.1, 1e-5),
    IMAGE,
    real(6),
    real(6),
)
add(
    "_native_batch_norm_legit_functional",
    lambda x, w, b, m, v: A._native_batch_norm_legit_functional(x, w, b, m, v, True, 0.1, 1e-5),
    IMAGE,
    real(6),
    real(6),
    real(6),
    real(6),
)
composite(
    "batch_norm",
    lambda x, w, b, m, v: A.batch_norm(x, w, b, m, v, False, 0.1, 1e-5, False),
    IMAGE,
    real(6),
    real(6),
    real(6),
    real(6),
)
add("native_layer_norm", lambda x, w, b: A.native_layer_norm(x, [4], w, b, 1e-5)[0], X, real(4), real(4))
add("native_layer_norm", lambda x, w, b: A.native_layer_norm(x, [4], w, b, 1e-5), X, real(4), real(4))
add("native_layer_norm", lambda x: A.native_layer_norm(x, [6, 4], None, None, 1e-5)[0], X)
add("native_layer_norm", lambda x, w: A.native_layer_norm(x, [6, 4], w, None, 1e-5)[0], X, real(6, 4))
composite("layer_norm", lambda x, w, b: A.layer_norm(x, [4], w, b), X, real(4), real(4))
add(
    "native_group_norm",
    lambda x, w, b: A.native_group_norm(x, w, b, 2, 6, 16, 3, 1e-5)[0],
    IMAGE,
    real(6),
    real(6),
)
add(
    "native_group_norm",
    lambda x, w, b: A.native_group_norm(x, w, b, 2, 6, 16, 3, 1e-5),
    IMAGE,
    real(6),
    real(6),
)
add("native_group_norm", lambda x: A.native_group_norm(x, None, None, 2, 6, 16, 1, 1e-5)[0], IMAGE)
add("native_group_norm", lambda x: A.native_group_norm(x, None, None, 2, 6, 16, 6, 1e-5)[0], IMAGE)
for name in ("_softmax", "_log_softmax"):
    add(name, lambda x, name=name: getattr(A, name)(x, 1, False), X)
    add(name, lambda x, name=name: getattr(A, name)(x, -1, False), X)
composite("softmax", lambda x: A.softmax(x, 1), X)
composite("log_softmax", lambda x: A.log_softmax(x, 1), X)
add("_weight_norm_interface", lambda v, g: A._weight_norm_interface(v, g, 0)[0], real(4, 6, 3), real(4, 1, 1))
add("_weight_norm_interface", lambda v, g: A._weight_norm_interface(v, g, 2)[0], real(4, 6, 3), real(1, 1, 3))

# pooling and resizing
add("max_pool2d_with_indices", lambda x: A.max_pool2d_with_indices(x, [2, 2]), IMAGE)
add("max_pool2d_with_indices", lambda x: A.max_pool2d_with_indices(x, [2, 2])[0], real(6, 4, 4))
add("max_pool3d_with_indices", lambda x: A.max_pool3d_with_indices(x, [2, 2, 2]), VOLUME)
composite("max_pool1d", lambda x: A.max_pool1d(x, [2]), X)
composite("avg_pool1d", lambda x: A.avg_pool1d(x, [2]), X)
add("avg_pool2d", lambda x: A.avg_pool2d(x, [2, 2]), IMAGE)
add("avg_pool2d", lambda x: A.avg_pool2d(x, [2, 2]), real(6, 4, 4))
add("avg_pool3d", lambda x: A.avg_pool3d(x, [2, 2, 2]), VOLUME)
add("_adaptive_avg_pool2d", lambda x: A._adaptive_avg_pool2d(x, [2, 2]), IMAGE)
add("_adaptive_avg_pool3d", lambda x: A._adaptive_avg_pool3d(x, [1, 2, 2]), VOLUME)
composite("adaptive_avg_pool1d", lambda x: A.adaptive_avg_pool1d(x, [2]), X)
add("adaptive_max_pool2d", lambda x: A.adaptive_max_pool2d(x, [2, 2]), IMAGE)
add("adaptive_max_pool3d", lambda x: A.adaptive_max_pool3d(x, [1, 2, 2]), VOLUME)
add("max_unpool2d", lambda x: A.max_unpool2d(*A.max_pool2d_with_indices(x, [2, 2], [2, 2]), [4, 4]), IMAGE)
add(
    "fractional_max_pool2d",
    lambda x, s: A.fractional_max_pool2d(x, [2, 2], [2, 2], s)[0],
    IMAGE,
    real(2, 6, 2).clamp(max=0.99),
)
for name, size in (("upsample_nearest1d", [8]), ("_upsample_nearest_exact1d", [8])):
    add(name, lambda x, n=name, s=size: getattr(A, n)(x, s), X)
add("upsample_linear1d", lambda x: A.upsample_linear1d(x, [8], False), X)
for name in ("upsample_nearest2d", "_upsample_nearest_exact2d"):
    add(name, lambda x, n=name: getattr(A, n)(x, [8, 8]), IMAGE)
for name in (
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
):
    add(name, lambda x, n=name: getattr(A, n)(x, [8, 8], False), IMAGE)
for name in ("upsample_nearest3d", "_upsample_nearest_exact3d"):
    add(name, lambda x, n=name: getattr(A, n)(x, [6, 8, 8]), VOLUME)
add("upsample_trilinear3d", lambda x: A.upsample_trilinear3d(x, [6, 8, 8], False), VOLUME)
for name in ("reflection", "replication"):
    add(f"{name}_pad1d", lambda x, n=name: getattr(A, f"{n}_pad1d")(x, [1, 1]), X)
    add(f"{name}_pad2d", lambda x, n=name: getattr(A, f"{n}_pad2d")(x, [1, 1, 1, 1]), IMAGE)
    add(f"{name}_pad2d", lambda x, n=name: getattr(A, f"{n}_pad2d")(x, [1, 1, 1, 1]), real(6, 4, 4))
    add(f"{name}_pad3d", lambda x, n=name: getattr(A, f"{n}_pad3d")(x, [1, 1, 1, 1, 1, 1]), VOLUME)
add("grid_sampler_2d", lambda x, g: A.grid_sampler_2d(x, g, 0, 0, False), IMAGE, real(2, 3, 3, 2) - 0.5)
add("grid_sampler_3d", lambda x, g: A.grid_sampler_3d(x, g, 0, 0, False), VOLUME, real(1, 3, 3, 3, 3) - 0.5)
add("affine_grid_generator", lambda t: A.affine_grid_generator(t, [2, 3, 4, 4], False), real(2, 2, 3))

# reductions
for name in (
    "sum",
    "mean",
    "amax",
    "amin",
    "logsumexp",
    "nansum",
    "nanmean",
    "linalg_vector_norm",
    "norm",
    "var",
    "std",
):
    one = composite if name in {"nanmean"} else add
    call_ = {
        "linalg_vector_norm": lambda x, d, k: A.linalg_vector_norm(x, 2, d, k),
        "norm": lambda x, d, k: A.norm(x, 2, d, k),
        "var": lambda x, d, k: A.var(x, d, correction=0, keepdim=k),
        "std": lambda x, d, k: A.std(x, d, correction=0, keepdim=k),
    }.get(name, lambda x, d, k, name=name: getattr(A, name)(x, d, k))
    for dims in ([1], [-1], [0, 2], [0, 1, 2]):
        for keep in (False, True):
            one(name, lambda x, c=call_, d=dims, k=keep: c(x, d, k), X)
for name in ("sum", "mean", "prod", "max", "min", "median", "any", "all", "argmax", "nanmedian"):
    add(name, lambda x, name=name: getattr(A, name)(x), X)
for name in ("prod", "max", "min", "median", "any", "all", "argmax", "argmin", "mode", "nanmedian"):
    add(name, lambda x, name=name: getattr(A, name)(x, 1), X)
    add(name, lambda x, name=name: getattr(A, name)(x, -1, True), X)
composite("max", A.max, X, real(6, 1))
composite("min", A.min, X, real(6, 1))
add("var_mean", lambda x: A.var_mean(x, [1], correction=1), X)
add("std_mean", lambda x: A.std_mean(x, [1], correction=1), X)
add("aminmax", lambda x: A.aminmax(x, dim=1), X)
add("aminmax", lambda x: A.aminmax(x), X)
add("count_nonzero", lambda x: A.count_nonzero(x, [1]), X)
composite("frobenius_norm", lambda x: A.frobenius_norm(x, [1, 2]), X)
add("trace", A.trace, real(4, 4))
add("renorm", lambda x: A.renorm(x, 2.0, 1, 0.5), X)
for name in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"):
    add(name, lambda x, name=name: getattr(A, name)(x, 1), X)
add("sort", lambda x: A.sort(x, 1), X)
add("sort", lambda x: A.sort(x), X)
add("topk", lambda x: A.topk(x, 3, 1), X)
add("kthvalue", lambda x: A.kthvalue(x, 2, 1), X)
add("kthvalue", lambda x: A.kthvalue(x, 2, 1, True), X)
add("_fft_r2c", lambda x: A.view_as_real(A._fft_r2c(x, [2], 0, True)), X)
add("_fft_c2r", lambda x: A._fft_c2r(A._fft_r2c(x, [2], 0, True), [2], 2, 4), X)
add("_fft_c2c", lambda x: A.view_as_real(A._fft_c2c(A.complex(x, x), [2], 0, True)), X)


for name in ("_foreach_sub", "_foreach_div"):
    add(name, lambda x, y, name=name: getattr(A, name)([x, y], [y, x]), real(4, 6), real(4, 6))
add("polar", A.polar, X, real(6, 1))
add("complex", A.complex, X, real(2, 6, 4))
add("randint_like", lambda x: A.randint_like(x, 5), X)
add("logspace", lambda x: x * A.logspace(0, 1, 4), X)
add("tril_indices", lambda x: x * A.tril_indices(3, 3)[0, :4], X)
add("triu_indices", lambda x: x * A.triu_indices(3, 3)[0, :4], X)
add("empty_permuted", lambda x: A.empty_permuted([6, 4], [1, 0]).fill_(1.0) + x, X)
add(
    "_embedding_bag_forward_only",
    lambda w, i, o: A._embedding_bag_forward_only(w, i, o)[0],
    real(9, 6),
    whole(9, 8),
    torch.tensor([0, 3]),
)
add("isnan", A.isnan, X)
add("isinf", A.isinf, X)
written("hardswish_", A.hardswish_, X)
add("hardswish", A.hardswish, X)
written("cumsum_", lambda x: A.cumsum_(x, 1), X)
written("cumprod_", lambda x: A.cumprod_(x, 1), X)
add(
    "index_reduce", lambda x, i, v: A.index_reduce(x, 1, i, v, "prod"), X, torch.tensor([1, 3]), real(2, 2, 4)
)
written(
    "index_reduce_",
    lambda x, i, v: A.index_reduce_(x, 1, i, v, "prod"),
    X,
    torch.tensor([1, 3]),
    real(2, 2, 4),
)
written("masked_scatter_", A.masked_scatter_, X, mask(2, 6, 4), real(48))
add(
    "masked_scatter",
    A.masked_scatter,
    X,
    torch.tensor([[True, False] * 3] * 2)[..., None].repeat(1, 1, 4),
    real(7, 4),
)
add("put", A.put, X, torch.tensor([1, 7]), real(2))
written("put_", A.put_, X, torch.tensor([1, 7]), real(2))
add("_unique2", lambda x: A._unique2(x)[0], whole(5, 6))
add(
    "max_unpool3d",
    lambda x: A.max_unpool3d(
        *A.max_pool3d_with_indices(x, [1, 2, 2], [1, 2, 2]), [3, 4, 4], [1, 2, 2], [0, 0, 0]
    ),
    VOLUME,
)
written("t_", A.t_, real(4, 6))
written("as_strided_", lambda x: A.as_strided_(x, [2, 6, 4], [24, 4, 1]), X)
add("lift", A.lift, X)
add("nanmedian", lambda x: A.nanmedian(x, 1)[0], X)
add("max", lambda x: A.max(x, 1)[0], X)
add(
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    lambda x: A._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
        x, torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), torch.tensor(1), 0, 255
    ),
    X.float(),
)
add("rsub", lambda x: A.rsub(x, 1.0), X)
add("rsub", A.rsub, X, real(6, 1))
add("floor_divide", A.floor_divide, X, real(6, 1))
written("floor_divide_", A.floor_divide_, X, real(6, 1))
add("normal", A.normal, X, real(2, 6, 4))
written("random_", A.random_, X)
add(
    "_fake_quantize_learnable_per_tensor_affine",
    lambda x: A._fake_quantize_learnable_per_tensor_affine(
        x, torch.tensor([0.1]), torch.tensor([0.0]), 0, 255
    ),
    X.float(),
)
add(
    "_fake_quantize_learnable_per_channel_affine",
    lambda x, s, z: A._fake_quantize_learnable_per_channel_affine(x, s, z, 1, 0, 255),
    X.float(),
    real(6).float(),
    real(6).float().round(),
)
for name in ("hann_window", "hamming_window", "blackman_window", "kaiser_window", "bartlett_window"):
    add(name, lambda x, name=name: x * getattr(A, name)(4), X)
add("fft_fftfreq", lambda x: x * A.fft_fftfreq(4), X)
add("fft_rfftfreq", lambda x: x[..., :3] * A.fft_rfftfreq(4), X)
add("repeat_interleave", A.repeat_interleave, whole(3, 6))
add("unique_dim", lambda x: A.unique_dim(x, 1)[0], X)
add("unique_consecutive", lambda x: A.unique_consecutive(x)[0], X)
add(
    "_pack_padded_sequence",
    lambda x, n: A._pack_padded_sequence(x, n, False),
    real(4, 3, 6),
    torch.tensor([4, 3, 1]),
)
add(
    "_pack_padded_sequence",
    lambda x, n: A._pack_padded_sequence(x, n, True),
    real(3, 4, 6),
    torch.tensor([4, 3, 1]),
)
add("masked_scatter", A.masked_scatter, real(4), mask(2, 4), real(8))
if hasattr(A, "_safe_softmax"):
    add("_safe_softmax", lambda x: A._safe_softmax(x, 1), X)
if hasattr(A, "_batch_norm_no_update"):
    add(
        "_batch_norm_no_update",
        lambda x, w, b, m, v: A._batch_norm_no_update(x, w, b, m, v, 0.1, 1e-5)[0],
        IMAGE,
        *(real(6) for _ in range(4)),
    )
if hasattr(A, "_batch_norm_with_update"):
    add(
        "_batch_norm_with_update",
        lambda x, w, b, m, v: A._batch_norm_with_update(x, w, b, m.clone(), v.clone(), 0.1, 1e-5)[0],
        IMAGE,
        *(real(6) for _ in range(4)),
    )


if hasattr(A, "_grouped_mm"):
    ROWS = torch.tensor([2, 6], dtype=torch.int32)
    add("_grouped_mm", lambda x, w: A._grouped_mm(x, w, ROWS), real(6, 8).float(), real(2, 8, 4).float())
    add("_grouped_mm", lambda x, w: A._grouped_mm(x, w), real(2, 6, 8).float(), real(2, 8, 4).float())


def from_schema(packet: Any) -> Iterator[Sample]:
    """Make samples of an elementwise operator from its schemas, where numbers of any kind will do."""
    fill: dict[str, Any] = {"number": 0.5, "float": 0.5, "int": 1, "bool": False, "Scalar": 0.5}
    shapes = [(2, 6, 4), (6, 1), (4,)]
    for name in packet.overloads():
        overload = getattr(packet, name)
        if name.endswith("out"):
            continue
        parts: list[Any] = []
        tensors: list[Tensor] = []
        for argument in overload._schema.arguments:
            kind = str(argument.type)
            if kind == "Tensor":
                parts.append(...)
                tensors.append(real(*shapes[min(len(tensors), 2)]))
            elif argument.has_default_value() or argument.kwarg_only:
                break
            else:
                parts.append(fill.get(kind))
        function = _filled(overload, parts)
        if tensors and _runs(function, tensors):
            yield Sample(f"composite.{packet}", function, tuple(tensors))


def _filled(overload: Any, parts: list[Any]) -> Callable[..., Any]:
    def function(*tensors: Tensor) -> Any:
        rest = iter(tensors)
        given = [next(rest).clone() if part is ... else part for part in parts]
        return overload(*given)

    return function


def _runs(function: Callable[..., Any], tensors: list[Tensor]) -> bool:
    try:
        function(*tensors)
    except (RuntimeError, TypeError, NotImplementedError):  # wants integers, complex numbers or gradients
        return False
    return True

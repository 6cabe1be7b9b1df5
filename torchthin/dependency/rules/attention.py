"""Fused attention and embeddings (attention is recorded through its plain form wherever torch offers it)."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.dead_rules import CONSTANT, LIVE, ZERO, DeadCall, Emissions, worse
from torchthin.dependency.labels import Axes
from torchthin.dependency.registry import Call, Contraction, register_op
from torchthin.dependency.rules.elementwise import broadcast
from torchthin.graph.operators import ATTENTION


def attended(call: DeadCall) -> Emissions:
    """Means of values by weights that sum to one: what all of them share stays."""
    value = call.of("value")
    kept = (
        (ZERO,) if call.has("attn_mask") or call.has("attn_bias") else (ZERO, CONSTANT)
    )  # rows may be masked whole
    return np.where(np.isin(value, kept), value, LIVE).astype(np.int8)


@register_op(*ATTENTION, dead=attended)
def attention(call: Call) -> list[Axes]:
    """Query (B, H, L, E), key (B, H, S, E), value (B, H, S, E) -> (B, H, L, E).

    The softmax counts the keys, so S freezes; without a given scale it is computed from E, so E freezes too.
    Kernels want values as wide as queries.
    """
    q, k, v = (call.axes(name) for name in ("query", "key", "value"))
    shapes = [call.shape(name) for name in ("query", "key", "value")]
    batch = broadcast(
        call, [(s[:2], axes[:2]) for s, axes in zip(shapes, (q, k, v), strict=True)], shapes[0][:2]
    )
    call.freeze_all((k[2], v[2]), "the keys are counted by a softmax")
    call.tie(q[3], k[3])
    call.tie(q[3], v[3])
    if call.arg("scale") is None:
        call.freeze(q[3], "the scale of attention is computed from the size of its heads")
    for name in ("attn_mask", "attn_bias"):
        if call.has(name):
            scores = (*shapes[0][:3], shapes[1][2])
            broadcast(call, [(scores, (*batch, q[2], None)), (call.shape(name), call.axes(name))], scores)
    call.contraction = Contraction(call.value("query"), 3, call.value("key"), None, 3)
    sums = [
        (*batch, q[2]) if call.out_shape(i) == shapes[0][:3] else call.unlabelled(i)
        for i in range(1, len(call.op.outputs))
    ]
    return [(*batch, q[2], v[3]), *sums]


def looked_up(call: DeadCall) -> Emissions:
    """Rows of a table by numbers that come with the input: zero where a column is."""
    return worse(call.of("weight"), CONSTANT, LIVE)


@register_op("aten.embedding", dead=looked_up)
def embedding(call: Call) -> list[Axes]:
    """Rows are looked up by number, so they freeze; columns pass."""
    table = call.axes("weight")
    call.freeze(table[0], "rows are looked up by number")
    return [(*call.axes("indices"), table[1])]


def summed_up(call: DeadCall) -> Emissions:
    """Sums of as many rows as come with the input."""
    return worse(call.of("weight"), LIVE, LIVE)


@register_op("aten._embedding_bag", "aten._embedding_bag_forward_only", dead=summed_up)
def embedding_bag(call: Call) -> list[Axes]:
    """Rows are looked up by number and summed in bags; columns pass."""
    table = call.axes("weight")
    call.freeze(table[0], "rows are looked up by number")
    for name in ("indices", "offsets", "per_sample_weights"):
        if call.has(name):
            call.freeze(call.axes(name)[0], "entries are put into bags by number")
    return [(None, table[1]), *(call.unlabelled(i) for i in range(1, len(call.op.outputs)))]

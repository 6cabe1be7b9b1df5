"""Fused attention and embeddings (attention is recorded through its plain form wherever torch offers it)."""

from __future__ import annotations

from torchthin.labels.registry import Call, rule
from torchthin.labels.space import Axes


@rule(
    "aten._scaled_dot_product_flash_attention_for_cpu", "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_attention_math_for_mps", "aten._scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def attention(call: Call) -> list[Axes]:
    """Query (B, H, L, E), key (B, H, S, E), value (B, H, S, Ev) -> (B, H, L, Ev)."""
    q, k, v = (call.axes(name) for name in ("query", "key", "value"))
    shape = call.shape("query")
    for position in (0, 1):
        if shape[position] > 1:
            call.tie(q[position], k[position])
            call.tie(q[position], v[position])
    if shape[3] > 1:
        call.tie(q[3], k[3])
    if call.shape("key")[2] > 1:
        call.tie(k[2], v[2])
    return [(q[0], q[1], q[2], v[3])]


@rule("aten.embedding")
def embedding(call: Call) -> list[Axes]:
    """Rows are looked up by number, so they freeze; columns pass."""
    table = call.axes("weight")
    call.freeze(table[0], "rows are looked up by number")
    return [(*call.axes("indices"), table[1])]

"""Building blocks of real models, each thinned for itself: thinned equals reference, and what goes is what may go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchthin.dependency.components import Grouping
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import Labels
from torchthin.graph.inputs import as_inputs
from torchthin.graph.parametrized import derived_weights
from torchthin.graph.trace import trace
from torchthin.selection.channels import select_channels
from torchthin.selection.selection import Selection
from torchthin.selection.selectors import masks_of, producers_of
from torchthin.thinning.search.trial_loop import find_plan

Run = Callable[[Any, Tensor], Any]


class Block(nn.Module):
    """Named layers and tensors, and a function that uses them."""

    def __init__(self, run: Run, **parts: nn.Module | Tensor | int) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and part.is_floating_point():
                setattr(self, name, nn.Parameter(part))
            elif isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class AtRandom:
    """Cuts half of every group that makes channels, embeddings included."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        tables = [n for n, m in self.model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
        axes = {**producers(labels), **{f"{name}.weight": 1 for name in tables}}
        groups = [group for group in grouping.groups.groups if producers_of(group, axes)]
        random = np.random.default_rng(0)
        keeps = select_channels(groups, {g.name: random.random(g.size) for g in groups}, 0.5)
        masks = masks_of(groups, keeps, self.model, axes, (), derived_weights(self.model))
        return Selection(keeps, masks, axes=axes, masks_makers=True)


def conv(i: int, o: int, k: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **more)


PICTURE = (2, 3, 8, 8)
TOKENS = (2, 5, 6)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {}
"""Name -> (model, input shape, the weights whose filters are cut, separated by spaces)."""


def case(name: str, cut: str, make: Callable[[], nn.Module], shape: tuple[int, ...] = PICTURE) -> None:
    CASES[name] = (make, shape, cut)


def between(
    name: str, cut: str, middle: Callable[[Any, Tensor], Tensor], width: int = 8, out: int = 8, **parts: Any
) -> None:
    """A function between two 1x1 convolutions a and b."""
    case(
        name,
        cut,
        lambda: Block(lambda s, x: s.b(middle(s, s.a(x))), a=conv(3, width), b=conv(out, 4), **parts),
    )


def tokens(
    name: str,
    cut: str,
    middle: Callable[[Any, Tensor], Tensor],
    width: int = 8,
    out: int = 8,
    **parts: Callable[[], Any],
) -> None:
    """A function between two linear layers a and b over (batch, time, width)."""

    def made() -> dict[str, Any]:
        return {key: part() for key, part in parts.items()}

    case(
        name,
        cut,
        lambda: Block(
            lambda s, x: s.b(middle(s, s.a(x))), a=nn.Linear(6, width), b=nn.Linear(out, 4), **made()
        ),
        TOKENS,
    )


# recurrent layers
for kind in (nn.LSTM, nn.GRU, nn.RNN):
    tokens(f"{kind.__name__}", "a r", lambda s, x: s.r(x)[0], r=lambda k=kind: k(8, 8, batch_first=True))
    tokens(
        f"{kind.__name__} twice, both ways",
        "a r",
        lambda s, x: s.r(x)[0],
        out=16,
        r=lambda k=kind: k(8, 8, 2, batch_first=True, bidirectional=True),
    )
tokens("LSTM, last state", "a r", lambda s, x: s.r(x)[1][0][-1], r=lambda: nn.LSTM(8, 8, batch_first=True))
tokens("GRUCell", "a r", lambda s, x: s.r(x[:, 0], x[:, 1]), r=lambda: nn.GRUCell(8, 8))
tokens("LSTMCell in a loop", "a r", lambda s, x: in_loop(s.r, x), r=lambda: nn.LSTMCell(8, 8))
tokens(
    "LSTM with a projection",
    "a r",
    lambda s, x: s.r(x)[0],
    r=lambda: nn.LSTM(8, 12, 2, proj_size=8, batch_first=True),
)

tokens(
    "LSTM on packed sequences",
    "a r",
    lambda s, x: unpacked(s.r, x),
    r=lambda: nn.LSTM(8, 8, batch_first=True),
)


def in_loop(cell: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = cell(step, state)
    assert state is not None
    hidden: Tensor = state[0]
    return hidden


def unpacked(layer: nn.Module, x: Tensor) -> Tensor:
    sequence = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    padded: Tensor = nn.utils.rnn.pad_packed_sequence(layer(sequence)[0], batch_first=True)[0]
    return padded


# attention
def heads(x: Tensor, n: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(q, k, v))


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return joined((q @ k.transpose(2, 3) * 0.5 + bias).softmax(-1) @ v)


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)


def angles(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 0.1


def by_halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * angles(x).cos() + torch.cat([-b, a], -1) * angles(x).sin()


def by_pairs(x: Tensor) -> Tensor:
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(z * torch.polar(torch.ones_like(angles(x)), angles(x))).flatten(-2)


def attention(
    name: str, cut: str, middle: Callable[[Any, Tensor], Tensor], kv: int = 16, **more: Callable[[], Any]
) -> None:
    """Four heads of four between linear layers q, k, v."""
    parts = {"q": lambda: nn.Linear(16, 16), "k": lambda: nn.Linear(16, kv), "v": lambda: nn.Linear(16, kv)}
    tokens(name, cut, middle, 16, 16, **parts, **more)


def from_table(table: Tensor, index: Tensor) -> Tensor:
    return table[index.view(-1)].view(5, 5, -1).permute(2, 0, 1)


def repeated(x: Tensor) -> Tensor:
    return heads(x, 2).repeat_interleave(2, 1)


def expanded(x: Tensor) -> Tensor:
    return heads(x, 2)[:, :, None].expand(2, 2, 2, 5, -1).reshape(2, 4, 5, -1)


# the scale of fused attention is computed from the size of its heads, and their number is fixed: queries take over the ratio
attention(
    "separate q, k, v", "a q k v", lambda s, x: fused(heads(s.q(x), 4), heads(s.k(x), 4), heads(s.v(x), 4))
)
attention("own softmax", "a q k v", lambda s, x: plain(heads(s.q(x), 4), heads(s.k(x), 4), heads(s.v(x), 4)))
attention("by einsum", "a q k v", lambda s, x: by_einsum(*(m(x).view(2, 5, 4, -1) for m in (s.q, s.k, s.v))))
attention(
    "repeated keys", "a q k v", lambda s, x: plain(heads(s.q(x), 4), repeated(s.k(x)), repeated(s.v(x))), 8
)
attention(
    "expanded keys", "a q k v", lambda s, x: plain(heads(s.q(x), 4), expanded(s.k(x)), expanded(s.v(x))), 8
)
attention(
    "rotary, halves",
    "a q k v",
    lambda s, x: plain(by_halves(heads(s.q(x), 4)), by_halves(heads(s.k(x), 4)), heads(s.v(x), 4)),
)
attention(
    "rotary, pairs",
    "a q k v",
    lambda s, x: plain(by_pairs(heads(s.q(x), 4)), by_pairs(heads(s.k(x), 4)), heads(s.v(x), 4)),
)
attention(
    "causal mask",
    "a q k v",
    lambda s, x: plain(heads(s.q(x), 4), heads(s.k(x), 4), heads(s.v(x), 4), torch.ones(5, 5).tril().log()),
)
attention(
    "relative position table", "a q k v",
    lambda s, x: plain(heads(s.q(x), 4), heads(s.k(x), 4), heads(s.v(x), 4), from_table(s.table, s.index)),
    table=lambda: torch.randn(9, 4), index=lambda: torch.arange(5)[:, None] - torch.arange(5)[None] + 4,
)  # fmt: skip
tokens(
    "fused qkv",
    "a",
    lambda s, x: fused(*s.qkv(x).view(2, 5, 3, 4, -1).permute(2, 0, 3, 1, 4)),
    16,
    16,
    qkv=lambda: nn.Linear(16, 48),
)
tokens(
    "fused qkv by chunk",
    "a qkv",
    lambda s, x: plain(*(heads(y, 4) for y in s.qkv(x).chunk(3, -1))),
    16,
    16,
    qkv=lambda: nn.Linear(16, 48),
)
tokens(
    "MultiheadAttention",
    "a m.out_proj",
    lambda s, x: s.m(x, x, x, need_weights=False)[0],
    16,
    16,
    m=lambda: nn.MultiheadAttention(16, 4, batch_first=True),
)
tokens(
    "TransformerEncoderLayer",
    "a m.self_attn.out_proj m.linear1 m.linear2",
    lambda s, x: s.m(x),
    16,
    16,
    m=lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
)
tokens(
    "positions and a class token",
    "a",
    lambda s, x: torch.cat([s.cls.expand(2, -1, -1), x], 1) + s.pos,
    cls=lambda: torch.randn(1, 1, 8),
    pos=lambda: torch.randn(1, 6, 8),
)

# lookups
case(
    "Embedding",
    "e",
    lambda: Block(lambda s, x: s.b(s.e((x[:, :, 0] > 0).long())), e=nn.Embedding(2, 8), b=nn.Linear(8, 4)),
    TOKENS,
)
case(
    "EmbeddingBag",
    "e",
    lambda: Block(lambda s, x: s.b(s.e((x[:, :, 0] > 0).long())), e=nn.EmbeddingBag(2, 8), b=nn.Linear(8, 4)),
    TOKENS,
)
between("constant permutation", "", lambda s, x: x[:, s.order], order=torch.tensor([3, 1, 2, 0, 7, 6, 5, 4]))
between("list of channels", "", lambda s, x: x[:, [1, 5, 2]], out=3)
between("picked channel", "", lambda s, x: x[:, 2:3] * x[:, 5, None], out=1)
between("every second channel", "a", lambda s, x: x[:, ::2] + x[:, 1::2], out=4)
between("picked pixel", "a", lambda s, x: x[:, :, 1:, 2:3])
between(
    "boolean rows",
    "a",
    lambda s, x: x.movedim(1, -1)[s.rows].view(2, 4, 8, -1).movedim(-1, 1),
    rows=torch.arange(128).view(2, 8, 8) % 2 == 0,
)
tokens("gather over time", "a", lambda s, x: x.gather(1, x.argsort(1)))
tokens("topk over time", "a", lambda s, x: x.topk(3, 1)[0])
tokens("largest by sorting", "a", lambda s, x: x / x.sort(2)[0].select(2, -1)[..., None])
tokens(
    "largest by sorting, last by number", "a", lambda s, x: x / x.sort(2)[0][..., x.shape[2] - 1][..., None]
)
tokens("largest by sorting down", "a", lambda s, x: x / x.sort(2, descending=True)[0][..., 0][..., None])
tokens("third by sorting", "", lambda s, x: x / x.sort(2)[0][..., 3][..., None])
tokens("place of the largest", "", lambda s, x: x + x.sort(2)[1][..., -1][..., None])
tokens("sorted channels", "", lambda s, x: x.sort(2)[0])
tokens("topk over channels", "", lambda s, x: x.topk(3, 2)[0], out=3)
tokens(
    "scatter over time",
    "a",
    lambda s, x: torch.zeros_like(x).scatter(1, s.index[..., None].expand(2, 5, x.shape[-1]), x),
    index=lambda: torch.arange(5).flip(0).repeat(2, 1),
)
tokens(
    "index_add over time", "a", lambda s, x: torch.zeros_like(x).index_add(1, torch.tensor([0, 2]), x[:, 3:])
)
tokens(
    "mixture of experts",
    "a e f",
    lambda s, x: (
        torch.zeros_like(x.flatten(0, 1))
        .index_add_(0, torch.arange(10), s.f(F.relu(s.e(x.flatten(0, 1)))))
        .view(x.shape)
    ),
    e=lambda: nn.Linear(8, 12),
    f=lambda: nn.Linear(12, 8),
)
tokens(
    "masked_scatter of rows",
    "a",
    lambda s, x: x.masked_scatter(
        (torch.arange(5) > 2)[None, :, None].expand_as(x), x.flip(1)[:, :2].reshape(-1, x.shape[-1])
    ),
)

# picture ops
between("pixel shuffle", "a", lambda s, x: F.pixel_shuffle(x, 2), out=2)
between("pixel unshuffle", "a", lambda s, x: F.pixel_unshuffle(x, 2), out=32)
between("unfold", "a", lambda s, x: F.unfold(x, 3).view(2, -1, 6, 6), out=72)
between("unfold and fold", "a", lambda s, x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2))
between("windows", "a", lambda s, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)))
between(
    "grid sample",
    "a",
    lambda s, x: F.grid_sample(
        x,
        F.affine_grid(torch.eye(2, 3)[None].expand(2, 2, 3).to(x), [2, 1, 5, 5], align_corners=False),
        align_corners=False,
    ),
)
for mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact"):
    between(f"interpolate {mode}", "a", lambda s, x, m=mode: F.interpolate(x, size=(11, 5), mode=m))
between("local response norm", "", lambda s, x: F.local_response_norm(x, 3))
between("group norm", "a", lambda s, x: s.n(x), n=nn.GroupNorm(2, 8))
between("instance norm", "a", lambda s, x: s.n(x), n=nn.InstanceNorm2d(8, affine=True))
between("layer norm over everything", "a", lambda s, x: s.n(x), n=nn.LayerNorm([8, 8, 8]))
tokens("layer norm", "a", lambda s, x: s.n(x), n=lambda: nn.LayerNorm(8))
tokens(
    "own RMS norm",
    "a",
    lambda s, x: s.g * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    g=lambda: torch.ones(8),
)
between("normalize", "a", lambda s, x: F.normalize(x, dim=1))
between("one minus a gate", "a", lambda s, x: x * (1 - x.sigmoid()))
between("PReLU", "a", lambda s, x: s.p(x), p=nn.PReLU(8))
between(
    "max and mean over channels",
    "a",
    lambda s, x: x * torch.sigmoid(s.g(torch.cat([x.amax(1, True), x.max(1, True)[0], x.mean(1, True)], 1))),
    g=conv(3, 1, 3, padding=1),
)
between("maxout", "a", lambda s, x: x.view(2, 2, -1, 8, 8).amax(1), out=4)
between("glu", "a", lambda s, x: F.glu(x, 1), out=4)
between("expanded gate", "a", lambda s, x: x * s.g(x).expand_as(x), g=conv(8, 1))
between(
    "gram matrix",
    "a",
    lambda s, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2)).view(2, -1, 8, 8),
)
between(
    "patches",
    "a",
    lambda s, x: (
        x.view(2, -1, 4, 2, 4, 2)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(2, 16, 4, -1)
        .permute(0, 3, 1, 2)
        .repeat_interleave(2, 3)
    ),
)
between(
    "channels to heads and back",
    "a",
    lambda s, x: x.view(2, 2, -1, 8, 8).transpose(1, 2).transpose(1, 2).reshape(2, -1, 8, 8),
)
between("where", "a", lambda s, x: torch.where(x > 0, x, s.t), t=torch.randn(8, 1, 1))
between("cumsum over rows", "a", lambda s, x: x.cumsum(2))
between("cumsum over channels", "", lambda s, x: x.cumsum(1))
between("Fourier mixing", "a", lambda s, x: torch.fft.rfft2(x, norm="ortho").real)
between("channel flip", "a", lambda s, x: x.flip(1))
between("channel shuffle", "a", lambda s, x: x.view(2, 2, -1, 8, 8).transpose(1, 2).reshape(2, -1, 8, 8))
between("channel shuffle by torch", "a", lambda s, x: F.channel_shuffle(x, 2))
between("roll of channels", "a", lambda s, x: x.roll(2, 1))
between("roll of pixels", "a", lambda s, x: x.roll((1, -2), (2, 3)))
between("stack of unbound channels", "", lambda s, x: torch.stack(x.unbind(1), 1))
between("stack of two", "a", lambda s, x: torch.stack([x, x.relu()], 2).flatten(1, 2), out=16)
between("uneven chunks", "a", lambda s, x: torch.cat([y * y.mean() for y in x.chunk(3, 1)], 1))
between("uneven split", "", lambda s, x: torch.cat([y.relu() for y in x.split([5, 3], 1)][::-1], 1))
between("cat with the input", "a c", lambda s, x: torch.cat([x, s.c(x)], 1), out=14, c=conv(8, 6))
case(
    "cat of fixed and free",
    "a",
    lambda: Block(lambda s, x: s.b(torch.cat([x, s.a(x), x], 1)), a=conv(3, 8), b=conv(14, 4)),
)
between("slices written into zeros", "a", lambda s, x: written(torch.zeros_like(x), x))
between("inputs written into zeros", "a", lambda s, x: padded(x), out=12)
between("in-place", "a", lambda s, x: x.relu_().mul_(2).add_(s.t).squeeze(), t=torch.randn(8, 1, 1))
between("shape in place", "a", lambda s, x: x.clone().unsqueeze_(1).squeeze_(1).transpose_(2, 3))
between("inference mode inside", "a", lambda s, x: x * inference(x))


def written(zeros: Tensor, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    zeros[:, :half] = x[:, half:]
    zeros[:, half:] += x[:, :half]
    return zeros


def padded(x: Tensor) -> Tensor:
    out = x.new_zeros(2, x.shape[1] + 4, 8, 8)
    out[:, 2:-2] = x
    return out


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return F.layer_norm(x.reshape(2, -1, 64), [64]).reshape(x.shape)


# functions of weights
parametrize = nn.utils.parametrizations
case(
    "weight norm",
    "a b",
    lambda: Block(
        lambda s, x: s.c(s.b(s.a(x))),
        a=parametrize.weight_norm(conv(3, 8)),
        b=parametrize.weight_norm(conv(8, 8, 3)),
        c=conv(8, 4),
    ),
)
case(
    "spectral norm",
    "a b",
    lambda: Block(
        lambda s, x: s.c(s.b(s.a(x))), a=conv(3, 8), b=parametrize.spectral_norm(conv(8, 8, 3)), c=conv(8, 4)
    ),
)
case(
    "standardised by var_mean",
    "a b",
    lambda: Block(
        lambda s, x: s.c(F.conv2d(s.a(x), standard(s.b.weight), s.b.bias)),
        a=conv(3, 8),
        b=conv(8, 8, 3),
        c=conv(8, 4),
    ),
)
case(
    "standardised by batch norm",
    "a b",
    lambda: Block(
        lambda s, x: s.c(
            F.conv2d(
                s.a(x),
                F.batch_norm(
                    s.b.weight.reshape(1, s.b.out_channels, -1), None, None, training=True
                ).reshape_as(s.b.weight),
                s.b.bias,
            )
        ),
        a=conv(3, 8),
        b=conv(8, 8, 3),
        c=conv(8, 4),
    ),
)
case(
    "standardised by a view",
    "a b",
    lambda: Block(
        lambda s, x: s.c(
            F.conv2d(
                s.a(x), s.b.weight - s.b.weight.view(s.b.out_channels, -1).mean(1).view(-1, 1, 1, 1), s.b.bias
            )
        ),
        a=conv(3, 8),
        b=conv(8, 8, 3),
        c=conv(8, 4),
    ),
)
case(
    "scaled by its largest weight",
    "a b",
    lambda: Block(
        lambda s, x: s.c(F.conv2d(s.a(x), s.b.weight / s.b.weight.abs().flatten().amax().detach(), s.b.bias)),
        a=conv(3, 8),
        b=conv(8, 8, 3),
        c=conv(8, 4),
    ),
)
case(
    "tied",
    "a b",
    lambda: tied(
        Block(
            lambda s, x: s.c(s.d(s.b(s.a(x)).relu())), a=conv(3, 8), b=conv(8, 8), d=conv(8, 8), c=conv(8, 4)
        )
    ),
)
case(
    "bilinear",
    "a c",
    lambda: Block(
        lambda s, x: s.b(s.m(s.a(x), s.c(x))),
        a=nn.Linear(6, 8),
        c=nn.Linear(6, 8),
        m=nn.Bilinear(8, 8, 8),
        b=nn.Linear(8, 4),
    ),
    TOKENS,
)


def standard(weight: Tensor) -> Tensor:
    var, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True)
    return (weight - mean) / (var + 1e-5).sqrt()


def tied(model: nn.Module) -> nn.Module:
    model.d.weight = model.b.weight
    return model


# the usual layers
case(
    "residual",
    "a b",
    lambda: Block(
        lambda s, x: s.c(s.a(x) + s.b(F.relu(s.n(s.a(x))))),
        a=conv(3, 8),
        n=nn.BatchNorm2d(8),
        b=conv(8, 8, 3, padding=1),
        c=conv(8, 4),
    ),
)
case(
    "depthwise",
    "a d",
    lambda: Block(lambda s, x: s.b(s.d(s.a(x))), a=conv(3, 8), d=conv(8, 16, 3, groups=8), b=conv(16, 4)),
)
case(
    "grouped",
    "a d",
    lambda: Block(lambda s, x: s.b(s.d(s.a(x))), a=conv(3, 8), d=conv(8, 16, 3, groups=2), b=conv(16, 4)),
)
case(
    "transposed, grouped",
    "a d",
    lambda: Block(
        lambda s, x: s.b(s.d(s.a(x))),
        a=conv(3, 8),
        d=nn.ConvTranspose2d(8, 16, 2, 2, groups=2),
        b=conv(16, 4),
    ),
)
case(
    "flatten to linear",
    "a",
    lambda: Block(lambda s, x: s.b(s.a(x).flatten(1)), a=conv(3, 8), b=nn.Linear(512, 4)),
)
case(
    "view(B, -1)",
    "a",
    lambda: Block(lambda s, x: s.b(s.a(x).view(x.shape[0], -1)), a=conv(3, 8), b=nn.Linear(512, 4)),
)
case(
    "squeeze and excite",
    "a d e",
    lambda: Block(
        lambda s, x: s.b(s.a(x) * s.e(F.relu(s.d(s.a(x).mean((2, 3), True)))).sigmoid()),
        a=conv(3, 8),
        d=conv(8, 4),
        e=conv(4, 8),
        b=conv(8, 4),
    ),
)
case(
    "1-d",
    "a",
    lambda: Block(lambda s, x: s.b(F.max_pool1d(s.a(x), 2)), a=nn.Conv1d(5, 8, 3), b=nn.Conv1d(8, 4, 1)),
    TOKENS,
)
case(
    "3-d",
    "a",
    lambda: Block(lambda s, x: s.b(F.avg_pool3d(s.a(x), 2)), a=nn.Conv3d(3, 8, 1), b=nn.Conv3d(8, 4, 1)),
    (1, 3, 4, 4, 4),
)


@pytest.mark.parametrize("name", CASES)
def test_block(name: str) -> None:
    make, shape, expected = CASES[name]
    torch.manual_seed(0)
    model = make().double().eval()
    generator = torch.Generator().manual_seed(1)
    inputs = as_inputs(torch.randn(shape, generator=generator, dtype=torch.float64))
    plan = find_plan(trace(model, inputs), AtRandom(model))
    proof = plan.outcome.proof
    assert sorted({f.name for f in plan.proposal.labels.unknown}) == []
    assert cut_layers(plan.recipe.keep, model) == set(expected.split())
    if expected:
        assert proof is not None and proof.holds and not proof.vacuous and proof.relative <= 1e-9


def cut_layers(keep: Any, model: nn.Module) -> set[str]:
    """Return the layers that lost filters (rows; columns of an embedding and of transposed convolutions)."""
    found = set()
    for name, axes in keep.items():
        path, _, local = name.rpartition(".")
        path = path.partition(".parametrizations")[0]
        layer = model.get_submodule(path)
        axis = 1 if isinstance(layer, (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose2d)) else 0
        if (
            axis in axes
            and local.startswith(("weight", "original"))
            and not isinstance(
                layer, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.PReLU)
            )
        ):
            found.add(path)
    return found

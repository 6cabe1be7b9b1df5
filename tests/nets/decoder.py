"""A small language model as they are built today: rotary positions, grouped queries, a gated MLP, RMS norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Over the last axis."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotated(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary positions of (B, heads, T, width), by width / 2 frequencies."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * frequencies
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Attention(nn.Module):
    """`heads` queries share `groups` keys and values."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.head_dim, bias=False)
        self.v = nn.Linear(width, groups * self.head_dim, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        half = self.head_dim // 2
        self.register_buffer("frequencies", 100.0 ** (-torch.arange(half) / half))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotated(q, self.frequencies), rotated(k, self.frequencies)
        k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    """Gated; with a cubic term in its activation, which is no residual."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return self.down(torch.tanh(gate + 0.04 * gate**3) * self.up(x))


class Block(nn.Module):
    """Attention and MLP on a residual stream."""

    def __init__(self, width: int, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = RMSNorm(width), RMSNorm(width)
        self.attention = Attention(width, heads, groups)
        self.mlp = Mlp(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))


class Decoder(nn.Module):
    """Tokens (B, T) -> logits (B, T, tokens)."""

    def __init__(
        self,
        tokens: int = 50,
        width: int = 32,
        heads: int = 8,
        groups: int = 4,
        inner: int = 40,
        layers: int = 2,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(Block(width, heads, groups, inner) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def decoder() -> Decoder:
    """Return the model with its weights, ready to be compared."""
    return Decoder().eval()


def some_tokens() -> Tensor:
    """Tokens (2, 7)."""
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))

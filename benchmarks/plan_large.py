"""Plan a transformer that no memory here holds: trace and group a Llama-7B-shaped model on the meta device.

    python benchmarks/plan_large.py --layers 32

Prints parameters, seconds, peak memory of the process, and the groups found. Checked: every layer's heads and MLP width
are a group of their own, and the residual width is one group.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchthin

WIDTH, HEADS, HIDDEN, VOCABULARY = 4096, 32, 11008, 32000


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = HEADS, WIDTH // HEADS
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        y = self.norm1(x)
        q, k, v = (
            layer(y).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = q * cos + rotated(q) * sin, k * cos + rotated(k) * sin
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attention.transpose(1, 2).reshape(batch, tokens, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = RMSNorm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        steps = torch.arange(0, WIDTH // HEADS, 2).float()
        self.register_buffer("frequencies", 10000 ** (-steps * HEADS / WIDTH), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * self.frequencies
        angles = torch.cat([angles, angles], -1)
        for layer in self.layers:
            x = layer(x, angles.cos().to(x), angles.sin().to(x))
        return self.head(self.norm(x))


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    layers = parser.parse_args().layers
    with torch.device("meta"):
        model = Model(layers)
    start = time.perf_counter()
    found = torchthin.inspect(model, torch.zeros(1, 16, dtype=torch.int64))
    seconds = time.perf_counter() - start
    sizes = Counter(group.channels for group in found.groups)
    # Per layer the hidden units and the index in each head of values; over all layers the width, and the index in each head of
    # queries and keys, which share their angles. Without values nothing is tried that could call for whole heads.
    wanted = {HIDDEN: layers, WIDTH // HEADS: layers, WIDTH: 1, WIDTH // HEADS // 2: 1}
    assert sizes == wanted, sizes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters: {len(found.groups)} groups in {seconds:.1f} s, peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()

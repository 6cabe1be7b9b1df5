"""Building blocks of random small nets: each takes and gives (batch, channels, height, width) and knows its width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Make = Callable[[int, int, int], tuple[nn.Module, int]]
"""(channels in, width, variant) -> (block, channels out). Widths and channels are multiples of 4."""

BLOCKS: dict[str, Make] = {}


def block(make: Make) -> Make:
    """Register a block under the name of its function."""
    BLOCKS[make.__name__] = make
    return make


class Apply(nn.Module):
    """Named layers and a function that uses them."""

    def __init__(self, function: Callable[[Apply, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@block
def conv(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    layer = nn.Conv2d(c, w, 3, padding=v % 2, bias=v < 2)
    return nn.Sequential(layer, [nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.Identity()][v]), w


@block
def residual(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.norm(self.a(x))))
        return F.relu(x + y) if v % 2 else y.add_(x)

    return Apply(
        run, a=nn.Conv2d(c, w, 3, padding=1), norm=nn.BatchNorm2d(w), b=nn.Conv2d(w, c, 1, bias=v < 2)
    ), c


@block
def concat(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        parts = [self.a(x), F.max_pool2d(self.b(x), 3, 1, 1)]
        return torch.cat(parts + [x] * (v % 2), 1)

    return Apply(run, a=nn.Conv2d(c, w, 1), b=nn.Conv2d(c, 4, 3, padding=1)), w + 4 + c * (v % 2)


@block
def dense(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = torch.cat([x, self.a(F.relu(self.na(x)))], 1)
        return torch.cat([y, self.b(F.relu(self.nb(y)))], 1)

    layers = {"na": nn.BatchNorm2d(c), "a": nn.Conv2d(c, w, 1), "nb": nn.BatchNorm2d(c + w)}
    return Apply(run, **layers, b=nn.Conv2d(c + w, 4, 3, padding=1)), c + w + 4


@block
def depthwise(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    times = 1 + v % 2
    return nn.Sequential(
        nn.Conv2d(c, c * times, 3, groups=c, padding=v // 2), nn.ReLU6(), nn.Conv2d(c * times, w, 1)
    ), w


@block
def grouped(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    return nn.Sequential(nn.Conv2d(c, w, 1), nn.ReLU(), nn.Conv2d(w, w, 3, groups=2 + 2 * (v % 2))), w


@block
def shuffled(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x)
        n, k, h, q = y.shape
        y = y.view(n, 2, k // 2, h, q).transpose(1, 2).reshape(n, k, h, q)
        return self.b(F.relu(y))

    return Apply(run, a=nn.Conv2d(c, w, 1, groups=2), b=nn.Conv2d(w, w, 3, groups=2)), w


@block
def pixel_shuffled(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.b(F.avg_pool2d(F.pixel_shuffle(self.a(x), 2), 2))

    return Apply(run, a=nn.Conv2d(c, 4 * w, 1), b=nn.Conv2d(w, w, 1)), w


@block
def squeeze_excite(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = self.up(F.relu(self.down(y.mean((2, 3), keepdim=True))))
        return y * torch.sigmoid(gate)

    return Apply(run, a=nn.Conv2d(c, w, 1), down=nn.Conv2d(w, 4, 1), up=nn.Conv2d(4, w, 1)), w


@block
def chunked(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, 1)
        return self.b(a * torch.sigmoid(b)) if v % 2 else self.b(a) + b

    return Apply(run, a=nn.Conv2d(c, 2 * w, 1), b=nn.Conv2d(w, w, 1)), w


@block
def half_way(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        a, b = torch.split(self.a(x), [w // 2, w // 2], 1)
        return torch.cat([self.b(F.relu(a)), b], 1)

    return Apply(run, a=nn.Conv2d(c, w, 1), b=nn.Conv2d(w // 2, w // 2, 1)), w


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@block
def normed(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    norm = [
        nn.BatchNorm2d(w, affine=False),
        nn.GroupNorm(2, w),
        ChannelNorm(w),
        nn.InstanceNorm2d(w, affine=True, track_running_stats=True),
    ][v]
    return nn.Sequential(nn.Conv2d(c, w, 1, bias=v > 1), norm, nn.ReLU()), w


@block
def parametric_relu(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    return nn.Sequential(nn.Conv2d(c, w, 1), nn.PReLU(w if v % 2 else 1)), w


@block
def transposed(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    layer = nn.ConvTranspose2d(c, w, 2, stride=1 + v % 2, groups=1 + v // 2)
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(6)), w


def _tokens(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 3).flatten(2).transpose(1, 2)


def _picture(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (3, 3))


@block
def attention(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        t = _tokens(x)
        if v % 2:
            q, k, u = self.qkv(t).chunk(3, -1)
        else:
            q, k, u = self.q(t), self.k(t), self.u(t)
        q, k, u = (y.view(y.shape[0], 9, 2, -1).transpose(1, 2) for y in (q, k, u))
        if v // 2:
            out = (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ u
        else:
            out = F.scaled_dot_product_attention(q, k, u)
        return _picture(self.out(out.transpose(1, 2).flatten(2)))

    qkv = {"qkv": nn.Linear(c, 3 * w)} if v % 2 else {name: nn.Linear(c, w) for name in ("q", "k", "u")}
    return Apply(run, **qkv, out=nn.Linear(w, w)), w


@block
def multihead(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        t = self.a(_tokens(x))
        return _picture(self.b(t + self.mix(t, t, t, need_weights=False)[0]))

    mix = nn.MultiheadAttention(w, 2, batch_first=True, bias=v % 2 == 0)
    return Apply(run, a=nn.Linear(c, w), mix=mix, b=nn.Linear(w, w)), w


@block
def recurrent(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    kind = nn.LSTM if v % 2 else nn.GRU
    rnn = kind(c, w, batch_first=True, bidirectional=v // 2 == 1)

    def run(self: Apply, x: Tensor) -> Tensor:
        return _picture(self.out(self.rnn(_tokens(x))[0]))

    return Apply(run, rnn=rnn, out=nn.Linear(w * (1 + v // 2), w)), w


@block
def recurrent_cell(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    cell = [
        nn.LSTMCell(c, w),
        nn.GRUCell(c, w),
        nn.RNNCell(c, w),
        nn.LSTM(c, 2 * w, proj_size=w, num_layers=2),
    ][v]

    def run(self: Apply, x: Tensor) -> Tensor:
        steps = _tokens(x).transpose(0, 1)
        if v == 3:
            hidden = self.cell(steps)[0][-1]
        else:
            state = self.cell(steps[0])
            for step in steps[1:]:
                state = self.cell(step, state)
            hidden = state[0] if v == 0 else state
        return self.out(hidden)[:, :, None, None].expand(-1, -1, 6, 6)

    return Apply(run, cell=cell, out=nn.Linear(w, w)), w


@block
def computed_weight(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    wrap: Callable[[nn.Module], nn.Module] = [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: nn.utils.parametrizations.weight_norm(layer, dim=1),
        lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh()),
    ][v]
    return nn.Sequential(wrap(nn.Conv2d(c, w, 1)), nn.ReLU(), wrap(nn.Conv2d(w, w, 3, padding=1))), w


@block
def shared(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return F.relu(self.b(F.relu(self.b(y)))) + (y if v % 2 else 0)

    return Apply(run, a=nn.Conv2d(c, w, 1), b=nn.Conv2d(w, w, 3, padding=1, bias=v < 2)), w


@block
def standardised(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        weight = self.a.weight
        if v == 0:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-3).sqrt()
        elif v == 1:
            weight = torch.round(weight.clamp(-1, 1) * 128) / 128
        elif v == 2:
            weight = weight * 0.5 * weight.detach().abs().max()
        else:
            weight = torch.tanh(weight)
        return F.relu(F.conv2d(x, weight, self.a.bias))

    return Apply(run, a=nn.Conv2d(c, w, 1)), w


@block
def moved(c: int, w: int, v: int) -> tuple[nn.Module, int]:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        if v == 0:
            y = y.flip(1)
        elif v == 1:
            y = torch.stack(y.unbind(1), -1).movedim(-1, 1)
        elif v == 2:
            z = torch.zeros_like(y)
            z[:, : w // 2] = y[:, w // 2 :]
            y = z
        else:
            y = torch.where(y > 0.5, y, y.roll(1, 1))
        return self.b(y)

    return Apply(run, a=nn.Conv2d(c, w, 1), b=nn.Conv2d(w, w, 1)), w


class Net(nn.Module):
    """A stem, blocks, and a head."""

    def __init__(self, plan: Sequence[tuple[str, int, int]], head: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        width = 8
        made = []
        for name, w, variant in plan:
            layer, width = BLOCKS[name](width, w, variant)
            made.append(layer)
        self.blocks = nn.ModuleList(made)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = (
            nn.Linear(4 * width, 5),
            nn.Conv2d(width, 5, 1),
            nn.Linear(width, 5),
        )[head]
        self.kind = head

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for layer in self.blocks:
            y = layer(y if y.shape[-1] > 4 else F.interpolate(y, size=6))
        y = self.pool(y)
        if self.kind == 0:
            y = y.contiguous().view(y.shape[0], -1)
        elif self.kind == 2:
            y = y.mean((2, 3))
        return self.head(y)

"""Small nets whose channels are hard to follow: each with the widths its layers must have at half the channels.

All take (n, 3, 10, 10) and give (n, 5). Layers are 8 wide, so 4 is a width that was cut and 8 one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from nets.blocks import Apply
from torch import Tensor, nn
from torch.nn import functional as F

Widths = Mapping[str, int]
"""Name of a parameter -> the size of its first axis after thinning at 50 %."""


@dataclass(frozen=True)
class Adversary:
    """A net and what must be left of it."""

    make: Callable[[], nn.Module]
    widths: Widths
    inexact: str = ""
    """What the report names where statistics run over channels, so that dead ones count in the masked model only."""
    again: bool = True
    """Whether a second thinning finds more."""
    missed: str = ""
    """Why less goes than could."""


ADVERSARIES: dict[str, Adversary] = {}


def adversary(
    inexact: str = "", again: bool = True, missed: str = "", **widths: int
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a net under its function's name; `widths` are those of ``<layer>.weight``, or of a bare parameter."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ADVERSARIES[make.__name__] = Adversary(make, widths, inexact, again, missed)
        return make

    return register


def conv(c: int = 8, w: int = 8, size: int = 1, **how: int) -> nn.Conv2d:
    return nn.Conv2d(c, w, size, padding=size // 2, **how)


def head(c: int = 8) -> nn.Linear:
    return nn.Linear(c, 5)


def seen(x: Tensor) -> Tensor:
    return F.relu(x).mean((2, 3))


@adversary(a=4, b=4)
def flipped_then_skipped() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.head(seen(y.flip(1) + self.b(y)))

    return Apply(run, a=conv(3), b=conv(), head=head())


@adversary(a=8, b=8, again=False)
def rolled_then_skipped() -> nn.Module:
    """A roll by one joined to itself ties every channel to the next: all are one."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.head(seen(y.roll(1, 1) + y + self.b(y)))

    return Apply(run, a=conv(3), b=conv(), head=head())


def one_layer_for_two(halves: Callable[[Tensor], tuple[Tensor, Tensor]]) -> nn.Module:
    """The same layer reads one stream and half of a wider one."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y, (left, right) = F.relu(self.a(x)), halves(F.relu(self.c(x)))
        return self.head(seen(torch.cat([self.b(y), self.b(right), left], 1)))

    return Apply(run, a=conv(3), b=conv(), c=conv(3, 16), head=head(24))


@adversary(a=4, b=4, c=8)
def one_convolution_in_two_streams() -> nn.Module:
    def halves(z: Tensor) -> tuple[Tensor, Tensor]:
        left, right = z.chunk(2, 1)
        return left, right

    return one_layer_for_two(halves)


@adversary(a=8, b=4, c=16)
def one_convolution_and_a_half_by_number() -> nn.Module:
    return one_layer_for_two(lambda z: (z[:, :8], z[:, 8:]))


@adversary(a=4, b=4)
def beside_itself() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.head(seen(self.b(torch.cat([y, y, y.flip(1)], 1))))

    return Apply(run, a=conv(3), b=conv(24), head=head())


@adversary(a=4, b=4, mask=4)
def one_mask_for_two_streams() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        gate = torch.sigmoid(self.mask(y.mean((2, 3))))[:, :, None, None]
        return self.head(seen(torch.cat([y * gate, z * gate], 1)))

    return Apply(run, a=conv(3), b=conv(3), mask=nn.Linear(8, 8), head=head(16))


class Factors(nn.Module):
    """A 1x1 convolution whose weight is the product of two factors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.zeros(8, 2)), nn.Parameter(torch.zeros(2, 8))
        self.a, self.head = conv(3), head()

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("or,ri->oi", self.left, self.right)[:, :, None, None]
        return self.head(seen(F.conv2d(F.relu(self.a(x)), weight)))


@adversary(a=4)
def weights_by_einsum() -> nn.Module:
    return Factors()


@adversary(a=4, b=4)
def mean_of_a_stack() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(seen(torch.stack([self.a(x), self.b(x)]).mean(0)))

    return Apply(run, a=conv(3), b=conv(3, size=3), head=head())


@adversary(a=4, b=4, deep=8)
def depthwise_after_concat() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(seen(self.deep(torch.cat([self.a(x), self.b(x)], 1))))

    return Apply(run, a=conv(3), b=conv(3), deep=conv(16, 16, 3, groups=16), head=head(16))


@adversary(a=16, b=4)
def pixels_shuffled_and_back() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.pixel_unshuffle(F.pixel_shuffle(self.a(x), 2), 2)
        return self.head(seen(self.b(F.relu(y))))

    return Apply(run, a=conv(3, 32), b=conv(32), head=head())


@adversary(a=4, b=4, again=False)
def grouped_after_shuffle_with_skip() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.head(seen(self.b(F.channel_shuffle(F.relu(y), 2)) + y))

    return Apply(run, a=conv(3), b=conv(groups=2), head=head())


@adversary(a=4)
def linear_over_permuted_pixels() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.a(x), 3).permute(0, 2, 3, 1).flatten(1))

    return Apply(run, a=conv(3), head=head(72))


@adversary(a=4, b=4)
def expanded_and_multiplied() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.head(seen(self.b(x).mean((2, 3), keepdim=True).expand_as(y) * y))

    return Apply(run, a=conv(3), b=conv(3), head=head())


def over_channels(function: Callable[[Tensor], Tensor], width: int = 8) -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(seen(function(self.b(F.relu(self.a(x))))))

    return Apply(run, a=conv(3), b=conv(), head=head(width))


@adversary(a=4, b=8)
def cumsum_over_channels() -> nn.Module:
    return over_channels(lambda y: y.cumsum(1))


@adversary(a=4, b=8)
def softmax_over_channels() -> nn.Module:
    return over_channels(lambda y: y.softmax(1))


@adversary(a=4, b=8)
def sorted_channels() -> nn.Module:
    return over_channels(lambda y: y.sort(1).values)


@adversary(a=4, b=4, inexact="aten.amax")
def largest_channel() -> nn.Module:
    return over_channels(lambda y: y.amax(1, keepdim=True), width=1)


class Indexed(nn.Module):
    """Channels in the order that a buffer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 1, 7, 5, 0, 2, 6, 4]))
        self.a, self.head = conv(3), head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(seen(self.a(x)[:, self.order]))


@adversary(a=8, again=False)
def indexed_by_a_buffer() -> nn.Module:
    return Indexed()


@adversary(a=4, b=2, again=False)
def slices_in_place() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, 2:6] += self.b(x)
        return self.head(seen(y))

    return Apply(run, a=conv(3), b=conv(3, 4), head=head())


@adversary(a=8, b=4)
def swapped_gate() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, 1)
        return self.head(seen(self.b(torch.cat([right * torch.sigmoid(left), left], 1))))

    return Apply(run, a=conv(3, 16), b=conv(16), head=head())


@adversary(a=4, b=4)
def weight_turned_round() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(seen(F.conv2d(F.relu(self.a(x)), self.b.weight.flip(0, 2), padding=1)))

    return Apply(run, a=conv(3), b=conv(size=3, bias=False), head=head())


@adversary(inner=4)
def tied_transposed() -> nn.Module:
    """An autoencoder: what the first layer writes, the second reads with the same weight."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y = torch.relu(self.inner(x.mean((2, 3))))
        return self.head(F.linear(y, self.inner.weight.t()))

    return Apply(run, inner=nn.Linear(3, 8), head=head(3))


@adversary(a=4, b=8, missed="the view of the weight has sizes in the code, and a is given up together with b")
def weight_averaged_over_groups() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        weight = self.b.weight.view(2, 4, 8, 1, 1).mean(0)
        return self.head(seen(F.conv2d(F.relu(self.a(x)), weight)))

    return Apply(run, a=conv(3), b=conv(bias=False), head=head(4))


@adversary(a=4, twice=4)
def run_twice_side_by_side() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.head(seen(torch.cat([self.twice(y), self.twice(y.flip(3) * 2)], 1)))

    return Apply(run, a=conv(3), twice=conv(size=3), head=head(16))


@adversary(a=4)
def recurrent_over_channels() -> nn.Module:
    """The channels are the time steps: none can go without the steps after it."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2).flatten(2)
        return self.head(self.rnn(y)[0][:, -1])

    return Apply(run, a=conv(3), b=conv(), rnn=nn.LSTM(4, 8, batch_first=True), head=head())


class LearnedQuery(nn.Module):
    """Pools pixels by attention with one query that is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, 8))
        self.a, self.key, self.value, self.head = conv(3), nn.Linear(8, 8), nn.Linear(8, 8), head()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2).transpose(1, 2)
        query = self.query.expand(len(x), -1, -1)
        return self.head(F.scaled_dot_product_attention(query, self.key(y), self.value(y), scale=0.3)[:, 0])


@adversary(a=4, key=4, value=4)
def attention_with_a_learned_query() -> nn.Module:
    return LearnedQuery()


@adversary(a=4, b=4)
def pointwise_by_tensordot() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = torch.tensordot(F.relu(self.a(x)), self.b.weight, dims=([1], [1])).movedim(-1, 1)
        return self.head(seen(y))

    return Apply(run, a=conv(3), b=nn.Linear(8, 8, bias=False), head=head())


@adversary(a=4, b=4)
def unfolded_and_folded() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.fold(F.unfold(F.relu(self.a(x)), 2, stride=2), (10, 10), 2, stride=2)
        return self.head(seen(self.b(y)))

    return Apply(run, a=conv(3), b=conv(), head=head())


@adversary(a=4, b=4)
def interpolated() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.interpolate(self.a(x), scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(seen(self.b(F.relu(y)) + F.interpolate(self.a(x), size=(20, 20))))

    return Apply(run, a=conv(3), b=conv(), head=head())


@adversary(a=4, b=4)
def branch_on_a_channel_count() -> nn.Module:
    """The residual is taken when counts agree, as MobileNets do; they still do when both are cut alike."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        z = self.b(y)
        return self.head(seen(y + z if z.shape[1] == y.shape[1] else z))

    return Apply(run, a=conv(3), b=conv(), head=head())


@adversary(a=4, b=4)
def whole_channels_dropped() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        return self.head(seen(self.b(self.drop(F.relu(self.a(x))))))

    return Apply(run, a=conv(3), drop=nn.Dropout2d(0.5), b=conv(), head=head())


class Scaled(nn.Module):
    """A buffer multiplies the channels, seen through two views."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(8))
        self.a, self.b, self.head = conv(3), conv(), head()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)) * self.scale[:, None, None]
        return self.head(seen(self.b(y)) * self.scale)


@adversary(a=4, b=4, scale=4)
def multiplied_by_a_buffer() -> nn.Module:
    return Scaled()


@adversary(a=8, again=False)
def halves_added() -> nn.Module:
    """The code says where the second half begins; with 4 channels it would be empty."""

    def run(self: Apply, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.head(seen(y[:, :4] + y[:, 4:].flip(1)))

    return Apply(run, a=conv(3), head=head(4))


@adversary(a=4, b=4)
def every_other_channel() -> nn.Module:
    def run(self: Apply, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.head(seen(torch.cat([self.b(y[:, ::2]), self.b(y[:, 1::2])], 1)))

    return Apply(run, a=conv(3), b=conv(4), head=head(16))


@adversary(a=4, b=8)
def outer_product() -> nn.Module:
    """Every channel of one stream times every channel of the other; the second is on an axis flattened with the first.

    Dead channels of the first give a bias times the second: no constant, so the bias is masked too.
    """

    def run(self: Apply, x: Tensor) -> Tensor:
        y, z = self.a(x).flatten(2), self.b(x).flatten(2)
        return self.head(torch.einsum("nip,njp->nij", y, z).flatten(1) / 100)

    return Apply(run, a=conv(3), b=conv(3), head=head(64))

"""Networks whose figures ADI's tool printed."""

from torchthin.max7800x.cost.layer import INPUT, Layer

FULL = (24, 24, 48, 48, 64, 64, 96, 96, 64, 64, 64, 48)
"""Widths of the pose student: conv1 to conv8, cpm1 to cpm3, heat_conv and paf_conv."""
QUARTER = (20, 20, 36, 36, 48, 48, 72, 72, 48, 48, 48, 36)
"""The same with a quarter of every layer cut, rounded to multiples of 4."""


def conv(into: int, out: int, side: int = 16, kernel: int = 3, source: int = INPUT, **more: object) -> Layer:
    """A padded 2-d convolution with a bias."""
    given: dict[str, object] = {
        "name": f"{into} -> {out}",
        "kind": "conv2d",
        "in_channels": into,
        "out_channels": out,
        "in_size": (side, side),
        "kernel": (kernel, kernel),
        "padding": (kernel // 2, kernel // 2),
        "sources": (source,),
    }
    return Layer(**{**given, **more})  # type: ignore[arg-type]


def pose(widths: tuple[int, ...] = FULL, *, folded: bool = True) -> list[Layer]:
    """The pose student, its first layer on the folded input, or behind max pooling."""
    *c, p1, p2, p3, head = widths
    pool: dict[str, object] = {"pool": (2, 2), "pool_stride": (2, 2)}
    first = conv(12, c[0], 64, name="conv1") if folded else conv(3, c[0], 128, name="conv1", **pool)
    return [
        first,
        conv(c[0], c[1], 64, source=0, name="conv2"),
        conv(c[1], c[2], 64, source=1, name="conv3"),
        conv(c[2], c[3], 64, source=2, name="conv4", **pool),
        conv(c[3], c[4], 32, source=3, name="conv5"),
        conv(c[4], c[5], 32, source=4, name="conv6", **pool),
        conv(c[5], c[6], source=5, name="conv7"),
        conv(c[6], c[7], source=6, name="conv8"),
        conv(c[7], p1, kernel=1, source=7, name="cpm1"),
        conv(p1, p2, source=8, name="cpm2"),
        conv(p2, p3, source=9, name="cpm3"),
        conv(p3, head, kernel=1, source=10, name="heat_conv"),
        conv(head, 19, kernel=1, source=11, name="heat_out", wide=True),
        conv(p3, head, kernel=1, source=10, name="paf_conv"),
        conv(head, 38, kernel=1, source=13, name="paf_out", wide=True),
    ]

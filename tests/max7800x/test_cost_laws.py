"""Laws that hold for every layer and every network."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from networks import conv

from torchthin.max7800x.chips import MAX78000, MAX78002
from torchthin.max7800x.cost.cycles import cycles
from torchthin.max7800x.cost.data_memory import place_maps
from torchthin.max7800x.cost.kernel_memory import LayerKernels, place_kernels
from torchthin.max7800x.cost.layer import INPUT, Layer, kernel_words, output_slots, passes
from torchthin.max7800x.cost.network import network_cost

CHIPS = st.sampled_from([MAX78000, MAX78002])
CHANNELS = st.integers(1, 300)
BITS = st.sampled_from([1, 2, 4, 8])


@given(CHANNELS)
def test_passes_hold_all_channels(channels: int) -> None:
    count, each = passes(channels, MAX78000)
    assert count * each >= channels
    assert (count - 1) * 64 < channels <= count * 64
    assert each <= 64
    assert count == 1 or each % 4 == 0
    assert output_slots(channels, MAX78000) == count * each


@given(CHANNELS, CHANNELS, CHANNELS, CHANNELS, BITS, st.sampled_from([1, 3]))
def test_fewer_channels_never_cost_more(
    into: int, out: int, less_in: int, less_out: int, bits: int, kernel: int
) -> None:
    whole = replace(conv(into, out, kernel=kernel), weight_bits=bits)
    part = replace(conv(min(into, less_in), min(out, less_out), kernel=kernel), weight_bits=bits)
    assert cycles(part, MAX78000) <= cycles(whole, MAX78000)
    if bits == 8:  # narrower kernels that do not fill a byte are padded, so 15 outputs can cost more than 16
        assert kernel_words(part, MAX78000) <= kernel_words(whole, MAX78000)


@given(CHANNELS, CHANNELS)
def test_only_whole_blocks_of_64_inputs_count(into: int, out: int) -> None:
    block = 64 * passes(into, MAX78000)[0]
    assert kernel_words(conv(into, out), MAX78000) == kernel_words(conv(block, out), MAX78000)
    assert cycles(conv(into, out), MAX78000) == cycles(conv(block, out), MAX78000)


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 15), st.integers(1, 64), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    CHIPS,
)
@settings(max_examples=100, deadline=None)
def test_kernels_never_overlap(sizes: list[tuple[int, int, int, bool]], chip: object) -> None:
    assert chip in (MAX78000, MAX78002)
    layers = [
        LayerKernels(
            str(number), words, range(4 * start, min(64, 4 * start + count)), alone and chip is MAX78002
        )
        for number, (words, start, count, alone) in enumerate(sizes)
    ]
    placed = place_kernels(layers, chip)  # type: ignore[arg-type]
    taken: set[tuple[int, int]] = set()
    for layer, offset in zip(layers, placed.offsets, strict=True):
        assert offset % 4 == 0
        words = {(one, word) for one in layer.processors for word in range(offset, offset + layer.words)}
        assert not words & taken
        taken |= words
    ends = max((word for _, word in taken), default=-1)
    assert bool(placed.problems) == any(word >= chip.kernel_capacity(one) for one, word in taken)  # type: ignore[attr-defined]
    assert placed.deepest <= ends + 1


@st.composite
def networks(draw: st.DrawFn) -> list[Layer]:
    """Chains with branches: a layer reads any earlier one."""
    layers: list[Layer] = []
    for number in range(draw(st.integers(1, 7))):
        source = draw(st.integers(max(INPUT, number - 3), number - 1))
        into = 12 if source == INPUT else layers[source].out_channels
        out = draw(st.sampled_from([3, 8, 24, 32, 60, 64, 65, 100]))
        side = 40 if source == INPUT else layers[source].out_size[0]
        pool = 2 if side > 10 and draw(st.booleans()) else 1
        layers.append(
            conv(
                into, out, side, source=source, name=f"l{number}", pool=(pool, pool), pool_stride=(pool, pool)
            )
        )
    return layers


@given(networks())
@settings(max_examples=150, deadline=None)
def test_maps_that_are_needed_at_the_same_time_never_overlap(layers: list[Layer]) -> None:
    maps, problems = place_maps(layers, MAX78000)
    if problems:
        return
    last = dict.fromkeys(maps, len(layers))
    for number in maps:
        readers = [reader for reader, layer in enumerate(layers) if number in layer.sources]
        last[number] = max(readers, default=len(layers))
    for one, first in maps.items():
        assert first.offset + first.size <= MAX78000.data_bytes
        for other, second in maps.items():
            together = other > one and last[one] >= other
            memories = {n // 4 for n in first.processor_numbers} & {n // 4 for n in second.processor_numbers}
            if together and memories:
                apart = (
                    first.offset + first.size <= second.offset or second.offset + second.size <= first.offset
                )
                assert apart, (one, other)


@given(networks())
@settings(max_examples=50, deadline=None)
def test_the_cost_of_a_network_is_that_of_its_layers(layers: list[Layer]) -> None:
    cost = network_cost(layers, MAX78000)
    assert cost.cycles == 1 + sum(row.cycles for row in cost.layers)
    assert cost.kernel_words == sum(row.kernel_words * row.processors for row in cost.layers)
    assert cost.fits == (not cost.violations)
    if cost.fits:
        assert cost.deepest_words <= MAX78000.kernel_words

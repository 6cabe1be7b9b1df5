"""Shares by kind and by pattern, even cuts, and what is refused."""

import pytest
from nets.decoder import Decoder, decoder, some_tokens
from torch import nn

import torchthin
from torchthin.errors import ConfigError, InputError, KindError

TOKENS = some_tokens()


def widths(model: nn.Module) -> list[tuple[int, int]]:
    assert isinstance(model, Decoder)
    return [(layer.attention.q.weight.shape[0] // 4, layer.mlp.up.weight.shape[0]) for layer in model.layers]


def test_patterns_say_shares_of_layers_and_come_before_kinds() -> None:
    assert widths(torchthin.prune(decoder(), TOKENS, {"layers.0": 0.25}).model) == [(6, 30), (8, 40)]
    target = torchthin.Ratio({"mlp": 0.5, "layers.0.mlp.*": 0.1, "heads": 0.25})
    assert widths(torchthin.prune(decoder(), TOKENS, target).model) == [(6, 36), (6, 20)]


def test_a_report_counts_what_was_asked_by_kind() -> None:
    report = torchthin.prune(decoder(), TOKENS, {"mlp": 0.3}).report
    asked = {layer.name: layer.asked for layer in report.layers}
    assert asked["layers.0.mlp.up.weight"] == 12
    assert report.target_reached
    assert report.to_dict()["by_kind"] == {"mlp": 0.3}


def test_even_cuts_keep_equal_numbers_of_each_layers_own_best() -> None:
    model = decoder()
    model.layers[0].mlp.up.weight.data[:30] *= (
        0.01  # over all groups, one layer loses far more than the other
    )
    uneven = torchthin.prune(model, TOKENS, torchthin.Ratio(0.3, scope="global"))
    assert len({mlp for _, mlp in widths(uneven.model)}) == 2
    even = torchthin.prune(model, TOKENS, torchthin.Ratio(0.3, scope="global", even=True))
    assert len(set(widths(even.model))) == 1
    kept = even.masks["layers.0.mlp.up.weight"].all(1)
    assert kept[30:].all()
    budget = torchthin.Budget(params="0.7x", even=True)
    assert len(set(widths(torchthin.prune(model, TOKENS, budget).model))) == 1


@pytest.mark.parametrize("round_to", [1, 4])
def test_even_budgets_are_missed_by_less_than_a_step_of_all_layers(round_to: int) -> None:
    model = decoder()
    budget = torchthin.Budget(params="0.7x", even=True, scope="global", round_to=round_to)
    small = torchthin.prune(model, TOKENS, budget).model
    assert len(set(widths(small))) == 1
    total, left = (sum(p.numel() for p in each.parameters()) for each in (model, small))
    stream = model.embed.weight.shape[1]
    step = round_to * len(small.layers) * 3 * stream  # of gate, up and down
    assert 0.7 * total - step < left <= 0.7 * total


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"specialists": 0.5}, "'specialists' goes to nothing: it is no kind .*heads"),
        ({"experts": 0.5}, "where a router picks"),
        ({"layers.7": 0.5}, "'layers.7' goes to nothing"),
        ({"states": 0.5}, r"no states that can be removed. It has hidden \(1 group\), heads \(2 groups\)"),
        (torchthin.Budget(params="0.9x", kinds=("channels",)), "no channels that can be removed"),
    ],
)
def test_kinds_that_the_model_lacks_are_refused(target: object, message: str) -> None:
    with pytest.raises(KindError, match=message):
        torchthin.prune(decoder(), TOKENS, target)


@pytest.mark.parametrize("ratios", [{"mlp": 1.0}, {"mlp": "half"}, {"": 0.5}, {"mlp": True}])
def test_shares_are_checked(ratios: object) -> None:
    with pytest.raises(ConfigError, match="kinds or patterns with shares"):
        torchthin.Ratio(ratios)  # type: ignore[arg-type]


def test_kinds_need_an_example() -> None:
    with pytest.raises(InputError, match="example_inputs are needed for Ratio"):
        torchthin.prune(decoder(), None, {"mlp": 0.5}, thin=False)


def test_the_report_says_what_was_asked_by_kind() -> None:
    assert "asked 30.00 % of mlp, 25.00 % of heads" in str(
        torchthin.prune(decoder(), TOKENS, {"mlp": 0.3, "heads": 0.25}).report
    )


def test_heads_and_their_width_are_not_cut_at_once() -> None:
    with pytest.raises(ConfigError, match="Prune twice"):
        torchthin.prune(decoder(), TOKENS, {"heads": 0.5, "head_dim": 0.5})
    once = torchthin.prune(decoder(), TOKENS, {"heads": 0.5}).model
    twice = torchthin.prune(once, TOKENS, {"head_dim": 0.5}).model
    assert widths(twice) == [(2, 40), (2, 40)]

"""What channels are follows from the graph: kinds of groups, and attention cut by whole heads."""

from collections.abc import Mapping

import pytest
import torch
from nets.decoder import Decoder, decoder, some_tokens
from torch import Tensor, nn

import torchthin
from torchthin.dependency.components import find_groups
from torchthin.dependency.kinds import KINDS, OUTPUT, kinds_of, multiplies_data, whole_heads
from torchthin.dependency.propagate import propagate
from torchthin.graph.clone import state_tensors
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace

LAYERS = ("layers.0.", "layers.1.")


def kinds_in(model: nn.Module, example: Tensor) -> Mapping[str, str]:
    graph = trace(model, as_inputs(example)).graph
    labels = propagate(graph, units=whole_heads(graph))
    return kinds_of(find_groups(labels), labels).of_weights


def test_kinds_of_a_language_model() -> None:
    found = kinds_in(decoder(), some_tokens())
    for layer in LAYERS:
        assert {found[f"{layer}attention.{name}.weight"] for name in "qkv"} == {"heads"}
        assert found[f"{layer}attention.o.weight"] == found[f"{layer}mlp.down.weight"] == "hidden"
        assert found[f"{layer}mlp.gate.weight"] == found[f"{layer}mlp.up.weight"] == "mlp"
    assert found["embed.weight"] == "hidden"
    assert found["head.weight"] == OUTPUT
    assert set(found.values()) <= {*KINDS, OUTPUT}


class Convolutions(nn.Module):
    """A residual network: what is added to is made by convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.states, self.head = (
            nn.Embedding(9, 6),
            nn.GRU(6, 8, batch_first=True),
            nn.Linear(8, 5),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.states(self.table(tokens))[0])


def test_kinds_without_attention() -> None:
    found = kinds_in(Convolutions(), torch.randn(2, 3, 6, 6))
    assert {found[name] for name in ("stem.weight", "inner.weight", "outer.weight")} == {"channels"}
    assert not multiplies_data(trace(Convolutions(), as_inputs(torch.randn(2, 3, 6, 6))).graph)
    found = kinds_in(Recurrent(), torch.randint(0, 9, (2, 4)))
    assert found["states.weight_hh_l0"] == "states"
    assert found["table.weight"] == "embedding"


def test_what_is_asked_by_kind_goes_and_nothing_else() -> None:
    model, tokens = decoder(), some_tokens()
    result = torchthin.prune(model, tokens, {"heads": 0.5})
    assert result.proof is not None
    assert result.proof.exact
    small = result.model
    assert isinstance(small, Decoder)
    for layer, name in zip(small.layers, LAYERS, strict=True):
        assert layer.attention.q.weight.shape == (16, 32)
        assert layer.attention.k.weight.shape == (8, 32)
        assert layer.attention.o.weight.shape == (32, 16)
        assert layer.mlp.up.weight.shape == (40, 32)
        keys, queries = (result.masks[f"{name}attention.{each}.weight"].all(1) for each in "kq")
        assert set(keys.reshape(4, 4).sum(1).tolist()) == {0, 4}  # all four numbers of a head go
        assert torch.equal(
            queries.reshape(4, 2, 4), keys.reshape(4, 1, 4).expand(4, 2, 4)
        )  # with its queries


def test_without_a_choice_the_stream_and_the_width_of_heads_stay() -> None:
    model, tokens = decoder(), some_tokens()
    result = torchthin.prune(model, tokens, 0.5)
    assert result.model.layers[0].attention.q.weight.shape == (16, 32)
    assert result.model.layers[0].mlp.down.weight.shape == (32, 20)
    assert result.model.embed.weight.shape == model.embed.weight.shape
    (note,) = (note for note in result.report.notes if "attention" in note)
    assert "only heads and mlp can go by default; hidden stays" in note
    assert "hidden" in note


@pytest.mark.parametrize(("kind", "shape"), [("hidden", (32, 24)), ("head_dim", (16, 32))])
def test_the_stream_and_the_width_of_heads_go_when_asked(kind: str, shape: tuple[int, int]) -> None:
    share = 0.25 if kind == "hidden" else 0.5
    result = torchthin.prune(decoder(), some_tokens(), {kind: share})
    assert result.model.layers[0].attention.q.weight.shape == shape
    assert result.model.layers[0].mlp.up.weight.shape[0] == 40
    assert result.proof is not None
    assert result.proof.exact


@pytest.mark.parametrize("kind", ["heads", "head_dim"])
def test_dead_heads_and_dead_places_of_heads_are_both_found(kind: str) -> None:
    model, tokens = decoder(), some_tokens()
    masks = torchthin.prune(model, tokens, {kind: 0.5}, thin=False).masks
    expected = model
    for name, mask in masks.items():
        dict(state_tensors(expected))[name].data.mul_(mask)
    before = expected(tokens)
    thinned = torchthin.thin_(model, tokens)
    assert thinned.proof is not None
    assert thinned.proof.exact
    assert model.layers[1].attention.q.weight.shape == (16, 32)
    torch.testing.assert_close(model(tokens), before)


def test_a_pruner_and_a_budget_take_kinds() -> None:
    model, tokens = decoder(), some_tokens()
    pruner = torchthin.Pruner(model, tokens, {"heads": 0.5, "mlp": 0.2}, schedule=torchthin.Schedule(steps=2))
    pruner.step()
    pruner.step()
    pruner.thin_()
    assert model.layers[0].attention.q.weight.shape == (16, 32)
    assert model.layers[0].mlp.up.weight.shape == (32, 32)
    result = torchthin.prune(decoder(), tokens, torchthin.Budget(params="0.8x", kinds=("mlp",)))
    assert result.model.layers[0].attention.q.weight.shape == (32, 32)
    assert sum(p.numel() for p in result.model.parameters()) <= 0.8 * sum(
        p.numel() for p in decoder().parameters()
    )


def test_inspect_lists_kinds_with_their_share() -> None:
    found = {item.kind: item for item in torchthin.inspect(decoder(), some_tokens()).kinds}
    assert {kind: item.groups for kind, item in found.items()} == {"heads": 2, "mlp": 2, "hidden": 1}
    total = sum(p.numel() for p in decoder().parameters())
    assert found["mlp"].parameters == pytest.approx(2 * 3 * 40 * 32 / total)
    assert "| heads " in str(torchthin.inspect(decoder(), some_tokens()))


class Cast(nn.Module):
    """Adds to a stream that is kept in another type, as state-space models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.double() + self.narrow(self.wide(x).relu())
        return self.head(x.to(self.head.weight.dtype))


def test_a_stream_that_is_cast_is_one() -> None:
    found = kinds_in(Cast(), torch.randn(2, 6))
    assert (found["narrow.weight"], found["wide.weight"]) == ("hidden", "mlp")


class Fused(nn.Module):
    """Attention by torch's own function, whose heads are fixed by the width of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(6, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def test_where_code_fixes_the_heads_their_width_goes() -> None:
    model = Fused().eval()
    result = torchthin.prune(model, torch.randn(2, 5, 6), 0.5)
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.attention.in_proj_weight.shape[0] == 48
    assert result.model.attention.num_heads == 4


def test_what_a_convolution_reads_is_not_made_by_it() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), Turned(), nn.Conv1d(6, 8, 3), nn.Conv1d(8, 4, 1))
    found = kinds_in(model, torch.randint(0, 9, (2, 5)))
    assert (found["0.weight"], found["2.weight"]) == ("embedding", "channels")


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class FixedHeads(nn.Module):
    """Torch's own attention, whose heads are fixed, beside an MLP; or attention of one head in plain products."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.embed, self.heads = nn.Embedding(9, 32), heads
        self.attention = nn.MultiheadAttention(32, heads, batch_first=True) if heads > 1 else None
        self.wide, self.narrow, self.head = nn.Linear(32, 48), nn.Linear(48, 32), nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.attention is not None:
            x = x + self.attention(x, x, x)[0]
        else:
            x = x + (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.head(x + self.narrow(self.wide(x).relu()))


@pytest.mark.parametrize("heads", [4, 1])
def test_the_stream_stays_where_heads_cannot_be_told_apart(heads: int) -> None:
    model = FixedHeads(heads).eval()
    small = torchthin.prune(model, torch.randint(0, 9, (2, 5)), 0.5).model
    assert small.embed.weight.shape == (9, 32)
    assert small.wide.weight.shape == (24, 32)


class QkvInOne(nn.Module):
    """Queries, keys and values of one layer, with fewer heads than each of them is wide, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, -1, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


def test_whole_heads_of_queries_keys_and_values_in_one_layer() -> None:
    result = torchthin.prune(QkvInOne().eval(), torch.randn(2, 5, 6), {"heads": 0.5})
    kept = result.masks["qkv.weight"].any(1).view(3, 4, 8)
    assert (kept.all(2) == kept.any(2)).all()
    assert (kept[0] == kept[1]).all()
    assert (kept[0] == kept[2]).all()
    assert kept.sum().item() == 48


class InPlace(nn.Module):
    """A residual stream that is changed in place, by attention and MLP in parallel at the end of it, as in Falcon."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.other, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found = self.narrow(self.wide(x).relu())
        found += self.other(x)
        found += x
        return self.head(found)


def test_a_stream_is_one_where_sums_are_made_in_place() -> None:
    found = kinds_in(InPlace(), torch.randn(2, 6))
    assert (found["narrow.weight"], found["wide.weight"]) == ("hidden", "mlp")


class Pooled(nn.Module):
    """A decoder whose states are pooled and classified by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.classes = decoder(), nn.Linear(50, 12), nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classes(torch.tanh(self.pool(self.body(tokens)[:, 0])))


def test_a_pooler_is_no_mlp_of_a_block() -> None:
    found = kinds_in(Pooled(), some_tokens())
    assert (found["pool.weight"], found["body.head.weight"]) == ("linear", "linear")
    assert found["body.layers.0.mlp.up.weight"] == "mlp"
    result = torchthin.prune(Pooled().eval(), some_tokens(), 0.5)
    assert result.model.pool.out_features == 12
    assert torchthin.prune(Pooled().eval(), some_tokens(), {"linear": 0.5}).model.pool.out_features == 6


class Factored(nn.Module):
    """An embedding narrower than the stream, which the output shares, as in ELECTRA and OPT."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.into, self.back = nn.Embedding(9, 4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.back(self.into(self.words(tokens)).relu()) @ self.words.weight.t()


def test_the_width_of_an_embedding_is_none_of_an_mlp() -> None:
    found = kinds_in(Factored(), torch.randint(0, 9, (2, 5)))
    assert (found["words.weight"], found["back.weight"]) == (
        "output",
        "embedding",
    )  # rows of the table make logits
    assert found["into.weight"] == "mlp"


class Mixed(nn.Module):
    """A block that mixes positions and channels by a Fourier transform, which fixes the stream, and a pooler: FNet."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.pool, self.classes = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + torch.fft.fft2(x, dim=(-1, -2)).real
        x = x + self.down(self.up(x).relu())
        return self.classes(self.pool(x[:, 0]).tanh())


def test_a_pooler_is_no_mlp_where_the_stream_cannot_be_cut() -> None:
    found = kinds_in(Mixed(), torch.randint(0, 9, (2, 5)))
    assert (found["up.weight"], found["pool.weight"]) == ("mlp", "linear")


class FastWeights(nn.Module):
    """A recurrence that updates what it keeps by products of data, with a decay from two narrow layers: no stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(6, 6) for _ in range(3))
        self.narrow, self.decay = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6, 6)
        read = x[:, 0]
        for step in x.unbind(1):
            key, value = self.key(step), self.value(step)
            state = state * self.decay(self.narrow(step)).sigmoid()[:, None]
            kept = torch.bmm(state, key[..., None])
            state = state + torch.bmm(value[..., None] - kept, key[:, None])
            read = step + self.out(torch.bmm(state, key[..., None])[..., 0])
        return read


def test_what_a_recurrence_keeps_is_no_stream() -> None:
    assert kinds_in(FastWeights(), torch.randn(2, 3, 6))["narrow.weight"] == "linear"

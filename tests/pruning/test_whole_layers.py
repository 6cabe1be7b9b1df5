"""Whole layers left out: the shortened model is the dense one whose layers hand on what they are given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pretrained import PAIR, TEXT, T
from torch import Tensor, nn

import torchthin
from torchthin import Budget, Pruner, Ratio
from torchthin.errors import CheckpointError, ConfigError, InputError, KindError
from torchthin.pruning.pretrained.load import from_pretrained
from torchthin.thinning.history import recipe_of

pytestmark = pytest.mark.usefixtures("foreign_warnings")

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
_SIZES: Any = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}


def llama(layers: int = 4) -> Any:
    torch.manual_seed(0)
    return T.LlamaForCausalLM(T.LlamaConfig(**_SIZES, num_key_value_heads=2, num_hidden_layers=layers)).eval()


@pytest.fixture(scope="module")
def dense() -> Any:
    return llama()


@pytest.fixture(scope="module")
def result(dense: Any) -> torchthin.PruneResult:
    return torchthin.prune(dense, TEXT, Ratio({"layers": 0.25}))


class Block(nn.Module):
    def __init__(self, number: int, weighed: bool = False) -> None:
        super().__init__()
        self.number, self.weighed = number, weighed
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu() / (self.number + 1 if self.weighed else 1)


class Net(nn.Module):
    """Counts its layers itself."""

    def __init__(self, depth: int = 5, *, weighed: bool = False, scales: bool = False) -> None:
        super().__init__()
        self.depth, self.names = depth, [f"block{number + 1}" for number in range(depth)]
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.blocks = nn.ModuleList(Block(number, weighed) for number in range(depth))
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in range(self.depth):
            x = self.blocks[number](x)
        return self.head(x / self.depth if self.scales else x)


def net(**how: Any) -> Net:
    torch.manual_seed(0)
    return Net(**how)


def bypassed(dense: Any, inputs: Any, paths: list[str]) -> Tensor:
    """Run the dense model with hooks by which layers return what they were given."""
    hooks = [
        dense.get_submodule(path).register_forward_hook(lambda module, args, output: args[0])
        for path in paths
    ]
    with torch.no_grad():
        found = dense(**inputs).logits if isinstance(inputs, dict) else dense(inputs)
    for hook in hooks:
        hook.remove()
    return found


def removed(result: torchthin.PruneResult) -> list[str]:
    return list(result.report.to_dict()["removed_layers"]["removed"])


def test_the_shorter_model_is_the_dense_one_past_the_layer(dense: Any, result: torchthin.PruneResult) -> None:
    assert len(dense.model.layers) == 4
    assert len(result.model.model.layers) == result.model.config.num_hidden_layers == 3
    assert dense.config.num_hidden_layers == 4
    assert [layer.self_attn.layer_idx for layer in result.model.model.layers] == [0, 1, 2]
    assert removed(result)[0] in ("model.layers.1", "model.layers.2")  # never the first or the last
    torch.testing.assert_close(
        result.model(**TEXT).logits, bypassed(dense, {**TEXT, "use_cache": False}, removed(result))
    )
    assert result.proof is not None and result.proof.exact
    assert "example inputs alone" in str(result)


def test_generation_with_cache_is_generation_without(result: torchthin.PruneResult) -> None:
    how = {"max_new_tokens": 6, "do_sample": False}
    with_cache = result.model.generate(TEXT["input_ids"], **how)
    assert torch.equal(with_cache, result.model.generate(TEXT["input_ids"], use_cache=False, **how))


def test_a_folder_and_a_file_load(result: torchthin.PruneResult, tmp_path: Path) -> None:
    wanted = result.model(**TEXT).logits
    result.save_pretrained(tmp_path / "described")
    loaded = T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "described"))
    assert loaded.config.num_hidden_layers == 3
    torch.testing.assert_close(loaded(**TEXT).logits, wanted)
    result.save_pretrained(tmp_path / "recipe", described=False)
    torch.testing.assert_close(from_pretrained(tmp_path / "recipe")(**TEXT).logits, wanted)
    result.save(tmp_path / "thin.pth")
    again = torchthin.load(llama(), tmp_path / "thin.pth")
    torch.testing.assert_close(again(**TEXT).logits, wanted)
    torchthin.load(again, tmp_path / "thin.pth")  # it is short already
    other = llama(5)
    with pytest.raises(InputError, match=r"4 layers in 'model.layers'; the model has 5"):
        torchthin.load(other, tmp_path / "thin.pth")
    assert len(other.model.layers) == 5


def test_layers_go_before_channels(dense: Any, tmp_path: Path) -> None:
    result = torchthin.prune(dense, TEXT, {"layers": 2, "mlp": 0.5})
    assert [layer.mlp.gate_proj.out_features for layer in result.model.model.layers] == [24, 24]
    assert result.proof is not None and result.proof.exact
    assert result.report.thinned is not None
    assert result.report.thinned.before.parameters == sum(p.numel() for p in dense.parameters())
    result.save(tmp_path / "thin.pth")
    loaded = torchthin.load(llama(), tmp_path / "thin.pth")
    torch.testing.assert_close(loaded(**TEXT).logits, result.model(**TEXT).logits)
    result.save_pretrained(tmp_path / "folder")
    loaded = T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "folder"))
    torch.testing.assert_close(loaded(**TEXT).logits, result.model(**TEXT).logits)


def test_lists_with_an_entry_for_each_layer_follow(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
    sizes = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 4, "sliding_window": 4}
    torch.manual_seed(0)
    dense = T.Gemma3ForCausalLM(T.Gemma3TextConfig(**sizes, layer_types=kinds)).eval()
    plan = torchthin.plan(dense, TEXT, {"layers": 1}, include=["model.layers.0"])
    assert plan.explain().splitlines()[0] == ""
    result = plan.apply()
    assert removed(result) == ["model.layers.0"]
    assert result.model.config.layer_types == kinds[1:] and dense.config.layer_types == kinds
    result.save_pretrained(tmp_path / "folder")
    loaded = T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "folder"))
    torch.testing.assert_close(loaded(**TEXT).logits, result.model(**TEXT).logits)


def test_encoder_and_decoder_each_lose_layers() -> None:
    sizes = {
        "vocab_size": 96,
        "d_model": 16,
        "d_ff": 24,
        "d_kv": 8,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    dense = T.T5ForConditionalGeneration(T.T5Config(**sizes, num_layers=3, num_decoder_layers=4)).eval()
    small = torchthin.prune(dense, PAIR, {"layers": 1}).model
    assert (len(small.encoder.block), len(small.decoder.block)) == (2, 3)
    assert (small.config.num_layers, small.config.num_decoder_layers) == (2, 3)
    assert small.decoder.config.num_hidden_layers == 3  # a copy of the configuration that it has of its own


def test_a_stack_of_two_stays_whole() -> None:
    model = nn.Sequential(
        nn.Sequential(Block(0), Block(1)), nn.Conv2d(8, 8, 1), nn.Sequential(*map(Block, range(3)))
    )
    pictures = torch.randn(2, 8, 6, 6)
    result = torchthin.prune(model, pictures, {"layers": 1})
    assert [len(part) for part in (result.model[0], result.model[2])] == [2, 2]
    assert "All layers of 0 stay" in str(result)
    named = torchthin.prune(model, pictures, {"layers": 1}, include=["0.1"]).model
    assert [len(part) for part in (named[0], named[2])] == [1, 3]


def test_a_count_that_the_code_loops_over_follows(tmp_path: Path) -> None:
    dense = net()
    result = torchthin.prune(dense, IMAGES, {"layers": 2})
    assert (result.model.depth, len(result.model.blocks), dense.depth) == (3, 3, 5)
    assert [block.number for block in result.model.blocks] == [0, 1, 2]
    torch.testing.assert_close(result.model(IMAGES), bypassed(dense, IMAGES, removed(result)))
    again = torchthin.prune(torchthin.prune(result.model, IMAGES, 0.5).model, IMAGES, {"layers": 1}).model
    torchthin.save(again, tmp_path / "thin.pth")
    loaded = torchthin.load(net(), tmp_path / "thin.pth")
    torch.testing.assert_close(loaded(IMAGES), again(IMAGES))
    assert recipe_of(loaded) == recipe_of(again) and len(loaded.blocks) == 2


@pytest.mark.parametrize("how", [{"weighed": True}, {"scales": True}])
def test_what_depends_on_the_number_of_a_layer_is_refused(how: dict[str, bool]) -> None:
    with pytest.raises(KindError, match=r"0 can go .* Without blocks.\d: outputs differ by"):
        torchthin.prune(net(**how), IMAGES, {"layers": 1})


class Numbered(nn.Module):
    """Keeps what its layers add for its own next call, each in the place of its number, as caches do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Counting(number) for number in range(4))

    def forward(self, x: Tensor, past: list[Tensor] | None = None, use_cache: bool = True) -> dict[str, Any]:
        kept = [torch.zeros(())] * len(self.layers) if past is None else list(past)
        for layer in self.layers:
            x = layer(x, kept)
        return {"x": x, "past": kept} if use_cache else {"x": x}


class Counting(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.place, self.line = (
            [number],
            nn.Linear(6, 6),
        )  # a list, of which nobody knows that it is a number of layers

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        added = self.line(x) + kept[self.place[0] % len(kept)]
        kept[self.place[0] % len(kept)] = added
        return x + added


def test_the_next_call_is_compared_also_where_the_example_wants_no_states() -> None:
    torch.manual_seed(0)
    given = {"x": torch.randn(2, 6), "use_cache": False}
    with pytest.raises(KindError, match=r"Without layers.1: outputs differ"):
        torchthin.prune(Numbered().eval(), given, {"layers": 1})


def test_data_choose(dense: Any) -> None:
    model = net()
    with torch.no_grad():
        model.blocks[2].conv.weight.mul_(1e-3)
        model.blocks[2].conv.bias.zero_()
    result = torchthin.prune(model, IMAGES, {"layers": 1}, data=[IMAGES, IMAGES + 1])
    assert removed(result) == ["blocks.2"]
    assert "on 4 calibration inputs: blocks.2 (" in str(result)
    assert removed(torchthin.prune(model, IMAGES, {"layers": 1}, exclude=["blocks.2.conv.weight"])) != [
        "blocks.2"
    ]


@pytest.mark.parametrize(
    ("target", "more", "says"),
    [
        ({"layers": 0.9}, {}, r"asks for 4 of the 5 layers of blocks, and 3 can go \(the first and the last"),
        ({"layers": 0, "channels": 0.5}, {}, r"layers=0 \(--ratio\) is less"),
        ({"layers": 0.1}, {}, r"is less than one layer: the model has 5 of blocks"),
        ({"layers": 5}, {"include": ["blocks.*"]}, r"No layer of blocks would be left"),
        ({"layers": 1}, {"thin": False}, r"removed, not masked"),
        (
            {"layers": 1, "channels": 0.5},
            {"exclude": ["blocks.4.*"]},
            r"'blocks.4.\*' stands for other weights",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(target: Any, more: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        torchthin.prune(net(), IMAGES, target, **more)
    assert "\n" not in str(caught.value)


def test_only_whole_layers_at_once() -> None:
    with pytest.raises(KindError, match="no layers that can be left out"):
        torchthin.prune(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4))), IMAGES, {"layers": 1})
    with pytest.raises(ConfigError, match="go at once"):
        Pruner(net(), IMAGES, Ratio({"layers": 1}))
    with pytest.raises(ConfigError, match="go at once"):
        torchthin.prune(net(), IMAGES, Budget(params="0.5x", kinds=("layers",)))
    for wrong in (1.5, -1, True):
        with pytest.raises(ConfigError, match="layers=3"):
            Ratio({"layers": wrong})


def test_inspect_counts_them() -> None:
    found = {item.kind: item for item in torchthin.inspect(net(), IMAGES, proof="off").kinds}
    assert (found["layers"].groups, found["layers"].channels) == (1, 3)
    sizes = sum(p.numel() for p in net().parameters())
    assert found["layers"].parameters == pytest.approx(3 * (8 * 8 * 9 + 8) / sizes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "thin.pth"
    torchthin.prune(net(), IMAGES, {"layers": 1}).save(path)
    return path


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("layers", {"blocks": [0, 9]}, "are not among 5"),
        ("layers", {"stem": [0]}, "shortens lists without a length"),
        ("layers", [], "damaged"),
        ("lengths", {"blocks": 7}, r"for 7 layers in 'blocks'; the model has 5"),
        ("attributes", {"": {"depth": 6}}, "can be set, to whole numbers"),
        ("attributes", {"": {"names": ["block1", "other2"]}}, "can be set, to whole numbers"),
        ("attributes", {"": {"names": ["block1", "block9"]}}, "can be set, to whole numbers"),
        ("attributes", {"": {"names": ["block1", {}]}}, "can be set, to whole numbers"),
    ],
)
def test_what_a_file_may_not_say(saved: Path, part: str, value: Any, says: str, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    content["torchthin"]["recipe"][part] = value
    torch.save(content, tmp_path / "thin.pth")
    model = net()
    with pytest.raises(CheckpointError, match=says):
        torchthin.load(model, tmp_path / "thin.pth")
    assert (len(model.blocks), model.depth, recipe_of(model)) == (5, 5, None)

"""Folders of pruned transformers: their own loader loads them, and what no configuration describes is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained_program import load_alone
from processes import Running
from tiny_pretrained import FAMILIES, TEXT, VOCABULARY, T, behaviour
from torch import nn

import torchthin
from torchthin.errors import CheckpointError, ConfigError, InputError
from torchthin.integrations.transformers import from_pretrained, save_pretrained

pytestmark = pytest.mark.usefixtures("foreign_warnings")


EVEN = torchthin.Ratio({"mlp": 0.25}, even=True)


def pruned(name: str, target: Any = EVEN, **how: Any) -> torchthin.PruneResult:
    family = FAMILIES[name]
    return torchthin.prune(family.model(), family.example, target, **how)


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_a_process_without_this_package_loads_them_and_they_behave_alike(tmp_path: Path) -> None:
    for name, family in FAMILIES.items():
        kinds = {family.kind: 0.25, **({"heads": 0.5} if family.heads else {})}
        result = pruned(name, torchthin.Ratio(kinds, even=True), proof="off")
        assert result.recipe
        result.save_pretrained(tmp_path / name)
        torch.save(behaviour(family, result.model), tmp_path / f"{name}.pt")
    done = Running(load_alone, [tmp_path / name for name in FAMILIES], folder=tmp_path).outcome()
    assert done.code == 0, done.err[-3000:]
    assert f"loaded without torchthin: {len(FAMILIES)}" in done.out


def test_the_configuration_has_the_sizes_and_nothing_else_changed(tmp_path: Path) -> None:
    result = pruned("llama")
    result.save_pretrained(tmp_path / "thin")
    FAMILIES["llama"].model().save_pretrained(tmp_path / "full")
    before, after = config(tmp_path / "full"), config(tmp_path / "thin")
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {
        "intermediate_size": (48, 36)
    }
    assert (tmp_path / "thin" / "generation_config.json").is_file()
    assert result.model.config.intermediate_size == 48  # the caller's model is as it was


def test_hidden_width_keeps_the_width_of_heads_and_corrects_epsilon(tmp_path: Path) -> None:
    pruned("llama", {"mlp": 0.25, "hidden": 0.25}).save_pretrained(tmp_path / "thin")
    after = config(tmp_path / "thin")
    assert (after["hidden_size"], after["intermediate_size"], after["head_dim"]) == (24, 36, 8)
    assert after["rms_norm_eps"] == pytest.approx(1e-6 * 32 / 24)


@pytest.mark.parametrize(("kind", "width", "heads"), [("head_dim", 6, 4), ("heads", 8, 3)])
def test_shapes_that_heads_and_their_width_share_are_told_apart(
    kind: str, width: int, heads: int, tmp_path: Path
) -> None:
    pruned("t5", {kind: 0.25}).save_pretrained(tmp_path / "thin")
    after = config(tmp_path / "thin")
    assert (after["d_kv"], after["num_heads"], after["d_ff"], after["d_model"]) == (width, heads, 48, 32)


def test_a_field_that_was_none_is_set(tmp_path: Path) -> None:
    pruned("gpt2").save_pretrained(tmp_path / "thin")
    assert config(tmp_path / "thin")["n_inner"] == 96


def test_a_field_that_the_class_reads_though_no_configuration_has_it_is_set(tmp_path: Path) -> None:
    """The heads of Qwen2 are ``hidden_size // num_attention_heads`` wide, unless there is a ``head_dim``."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    model = T.Qwen2ForCausalLM(T.Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    assert "head_dim" not in model.config.to_dict()
    result = torchthin.prune(model, FAMILIES["llama"].example, {"heads": 0.5})
    result.save_pretrained(tmp_path / "thin")
    after = config(tmp_path / "thin")
    assert (after["num_attention_heads"], after["num_key_value_heads"], after["head_dim"]) == (2, 1, 8)


def test_whole_heads_that_another_tool_removed_are_found(tmp_path: Path) -> None:
    """Every second key/value group of a model, and the query heads that read it, as a class with fewer heads has them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    small = T.LlamaForCausalLM(
        T.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    ).eval()
    small.config = T.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    save_pretrained(small, tmp_path / "thin")
    after = config(tmp_path / "thin")
    assert (after["num_attention_heads"], after["num_key_value_heads"], after["head_dim"]) == (2, 1, 8)


def test_fewer_layers_are_found(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    model.model.layers = model.model.layers[:1]
    save_pretrained(model, tmp_path / "thin")
    assert config(tmp_path / "thin")["num_hidden_layers"] == 1


def test_weights_stay_tied_and_of_their_type(tmp_path: Path) -> None:
    family = FAMILIES["qwen3"]
    result = torchthin.prune(family.model().bfloat16(), family.example, EVEN)
    result.save_pretrained(tmp_path / "thin")
    loaded = T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "thin"), torch_dtype="auto")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    state = loaded.state_dict()
    assert state.keys() == result.model.state_dict().keys()
    for name, value in result.model.state_dict().items():
        assert value.dtype == torch.bfloat16 and torch.equal(state[name], value), name


def test_shards_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    pruned("llama").save_pretrained(tmp_path / "thin", max_shard_size="20KB")
    shards = sorted((tmp_path / "thin").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "thin" / "model.safetensors.index.json").is_file()
    T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "thin"))
    modes = {path.stat().st_mode for path in (tmp_path / "thin").iterdir()}
    assert len(modes) == 1  # whoever wrote them, all can be read by whom the user lets read


def test_tokenizer_and_processor_go_along_and_other_weights_do_not(tmp_path: Path) -> None:
    source = tmp_path / "source"
    FAMILIES["llama"].model().save_pretrained(source)
    extra = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "merges.txt", "chat_template.jinja")
    for name in (*extra, "pytorch_model.bin", "old.index.json"):
        (source / name).write_text("{}")
    model = T.AutoModelForCausalLM.from_pretrained(str(source)).eval()
    example = FAMILIES["llama"].example
    torchthin.prune(model, example, EVEN).save_pretrained(tmp_path / "thin")
    found = {path.name for path in (tmp_path / "thin").iterdir()}
    assert found == {"config.json", "generation_config.json", "model.safetensors", "README.md", *extra}


def test_the_card_has_verdict_report_and_loader(tmp_path: Path) -> None:
    result = pruned("bert")
    result.save_pretrained(tmp_path / "thin")
    card = (tmp_path / "thin" / "README.md").read_text()
    assert str(result.report) in card and f"**{result.proof.verdict}**" in card
    assert "BertModel.from_pretrained" in card


def uneven() -> torchthin.PruneResult:
    return pruned("llama", torchthin.Ratio({"mlp": 0.5}, scope="global"))


def test_uneven_layers_are_refused_with_field_and_layers_and_nothing_is_written(tmp_path: Path) -> None:
    result = uneven()
    kept = [layer.mlp.gate_proj.out_features for layer in result.model.model.layers]
    assert kept[0] != kept[1]
    with pytest.raises(InputError) as caught:
        result.save_pretrained(tmp_path / "new" / "thin")
    text = str(caught.value)
    assert "intermediate_size of LlamaConfig is one number for" in text
    for number, size in enumerate(kept):
        assert f"model.layers.{number}.mlp.gate_proj.weight ({size})" in text
    assert "described=False" in text and "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_our_loader_loads_what_no_configuration_describes(tmp_path: Path) -> None:
    result = uneven()
    result.save_pretrained(tmp_path / "thin", described=False)
    assert config(tmp_path / "thin")["intermediate_size"] == 48
    loaded = from_pretrained(tmp_path / "thin")
    expected = behaviour(FAMILIES["llama"], result.model)
    for name, value in behaviour(FAMILIES["llama"], loaded).items():
        assert torch.equal(value, expected[name]), name
    assert "torchthin.integrations.transformers" in (tmp_path / "thin" / "README.md").read_text()
    with pytest.raises(Exception, match="size"):  # the stock loader says so, and loads nothing wrong
        T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "thin"))


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_our_loader_loads_tied_weights_and_narrower_heads(name: str, tmp_path: Path) -> None:
    result = pruned(name, {"head_dim": 0.25, "hidden": 0.25})
    result.save_pretrained(tmp_path / "thin", described=False)
    assert torchthin.verify(result.model, from_pretrained(tmp_path / "thin"), FAMILIES[name].example).exact


def test_our_loader_loads_a_described_folder_too(tmp_path: Path) -> None:
    result = pruned("vit")
    result.save_pretrained(tmp_path / "thin")
    assert torchthin.verify(result.model, from_pretrained(tmp_path / "thin"), FAMILIES["vit"].example).exact


def test_a_configuration_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    result = pruned("llama", {"head_dim": 0.25})  # heads keep some of their rotary frequencies
    with pytest.raises(InputError, match=r"computes something else.*described=False"):
        result.save_pretrained(tmp_path / "thin")
    assert list(tmp_path.iterdir()) == []


def test_heads_that_no_field_tells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"hidden_size of BertConfig is one number for .*query\.weight \(24\)"
    ):
        pruned("bert", {"heads": 0.25}).save_pretrained(tmp_path / "thin")


def test_a_bias_that_the_class_lacks_is_refused(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    model.model.layers[0].mlp.down_proj.bias = nn.Parameter(torch.zeros(32))
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.down_proj\.bias is not in a LlamaForCausalLM"):
        save_pretrained(model, tmp_path / "thin")


def test_a_model_thinned_in_place_is_saved(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    model = family.model()
    masks = torchthin.prune(model, family.example, EVEN, thin=False).masks
    torchthin.thin_(model, family.example, masks=masks)
    save_pretrained(model, tmp_path / "thin")
    assert config(tmp_path / "thin")["intermediate_size"] == 36


def test_bad_destinations_and_other_models_are_refused(tmp_path: Path) -> None:
    result = pruned("bert", proof="off")
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="folder to save must"):
            result.save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match=r"PreTrainedModel of transformers. Got Linear"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "thin")


def test_examples_are_made_by_the_configuration() -> None:
    from torchthin.graph.own_example import own_example

    for name, family in FAMILIES.items():
        model = family.model()
        example = own_example(model)
        assert family.inputs.keys() <= example.keys(), name
        model(**example)
    assert int(own_example(FAMILIES["llama"].model())["input_ids"].max()) < VOCABULARY == 96
    assert TEXT["input_ids"].shape == (2, 9)

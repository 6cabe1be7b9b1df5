"""``hf:FOLDER`` on the command line: a folder of transformers in, a folder that transformers loads out."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_pretrained import FAMILIES, T

from torchthin.cli.main import main

CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class TinyConfig(PretrainedConfig):
    model_type = "tiny-of-a-user"

    def __init__(self, width=16, **kwargs):
        self.width = width
        super().__init__(**kwargs)

class Tiny(PreTrainedModel):
    config_class = TinyConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.first = torch.nn.Conv2d(3, config.width, 3)
        self.second = torch.nn.Conv2d(config.width, 2, 3)
        self.post_init()

    def forward(self, pixel_values):
        return (self.second(self.first(pixel_values).relu()),)
"""


pytestmark = pytest.mark.usefixtures("foreign_warnings")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model in several shards, with a tokenizer's file."""
    folder = tmp_path_factory.mktemp("models") / "llama-1.0-tiny"
    FAMILIES["llama"].model().save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / saved.name)
    return tmp_path / saved.name


def prune(source: Path, target: Path, *more: str) -> int:
    asked = ("--ratio", "mlp=0.5", "--save-to", str(target))
    return main(["prune", f"hf:{source}", *asked, *more])


def test_a_folder_becomes_a_smaller_folder_without_an_input_shape(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "llama-1.0-half"  # a name with a dot is a folder all the same
    assert prune(source, target) == 0
    loaded = T.AutoModelForCausalLM.from_pretrained(str(target))
    assert [layer.mlp.gate_proj.out_features for layer in loaded.model.layers] == [24, 24]
    assert (target / "tokenizer.json").is_file()
    assert "**exact**" in (target / "README.md").read_text()


def test_the_flag_does_what_the_position_does(source: Path, tmp_path: Path) -> None:
    asked = (
        "--target-sparsity",
        "0.5",
        "--weights",
        "*.gate_proj.weight",
        "--save-to",
        str(tmp_path / "thin"),
    )
    assert main(["prune", "--model-factory", f"hf:{source}", *asked]) == 0
    assert json.loads((tmp_path / "thin" / "config.json").read_text())["intermediate_size"] == 24


def test_a_checkpoint_is_written_where_its_ending_says_so(source: Path, tmp_path: Path) -> None:
    assert prune(source, tmp_path / "thin.safetensors") == 0
    assert (tmp_path / "thin.safetensors").is_file()


def test_uneven_layers_need_no_described_and_our_loader(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "thin"
    assert prune(source, target, "--scope", "global", "--quiet") == 2
    told = capsys.readouterr().err
    assert "intermediate_size of LlamaConfig is one number for" in told and "--no-described" in told
    assert told.count("\n") == 1 and not target.exists()
    assert prune(source, target, "--scope", "global", "--no-described") == 0
    capsys.readouterr()
    assert main(["inspect", f"hf:{target}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def without_config(source: Path) -> None:
    (source / "config.json").unlink()


def broken_config(source: Path) -> None:
    (source / "config.json").write_text('{"model_type": ')


def no_folder(source: Path) -> None:
    shutil.rmtree(source)


def shard_missing(source: Path) -> None:
    sorted(source.glob("model-*.safetensors"))[1].unlink()


def shard_cut_short(source: Path) -> None:
    shard = sorted(source.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def no_weights(source: Path) -> None:
    for path in source.glob("model*"):
        path.unlink()


def weights_missing(source: Path) -> None:
    no_weights(source)
    from safetensors.torch import save_file

    save_file({"model.norm.weight": torch.ones(32)}, source / "model.safetensors", {"format": "pt"})


def code_named(source: Path) -> None:
    entries = json.loads((source / "config.json").read_text())
    entries["auto_map"] = {"AutoModel": "modeling.Net"}
    (source / "config.json").write_text(json.dumps(entries))


def unknown_type(source: Path) -> None:
    (source / "config.json").write_text('{"model_type": "of-next-year", "architectures": ["NextYear"]}')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_config, "a folder without config.json"),
        (broken_config, "cannot be read"),
        (no_folder, "is no folder"),
        (shard_missing, "model-00002-of-"),
        (shard_cut_short, "model-00002-of-"),
        (no_weights, "must have weights"),
        (weights_missing, "is missing"),
        (code_named, "--trust-remote-code"),
        (unknown_type, "cannot be used"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    damage: Callable[[Path], None],
    told: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(source)
    assert prune(source, tmp_path / "thin", "--quiet") == 2
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == 1, line
    assert not (tmp_path / "thin").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--factory-args", "{}"), "--factory-args does not go with hf:"),
        (("--checkpoint", "best.pth"), "--checkpoint does not go with hf:"),
    ],
)
def test_flags_of_a_factory_are_refused(
    more: tuple[str, ...], told: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(source, tmp_path / "thin", *more) == 2
    assert told in capsys.readouterr().err


def test_flags_of_a_folder_are_refused_for_a_factory(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--trust-remote-code", "--no-described"):
        assert main(["prune", "net.py:net", "--target-sparsity", "0.5", flag]) == 2
        assert f"{flag} goes with" in capsys.readouterr().err


def test_a_folder_with_files_is_never_written_into(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in source.iterdir())
    assert prune(source, source) == 2
    assert "must be new or empty" in capsys.readouterr().err
    assert sorted(path.name for path in source.iterdir()) == before


def test_without_transformers_one_line_says_what_to_install(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert prune(source, tmp_path / "thin") == 2
    assert "pip install 'torchthin[hf]'" in capsys.readouterr().err


def test_code_of_a_folder_runs_when_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, target = tmp_path / "tiny", tmp_path / "thin"
    folder.mkdir()
    (folder / "modeling.py").write_text(CODE)
    names = {"AutoConfig": "modeling.TinyConfig", "AutoModel": "modeling.Tiny"}
    entries = {"model_type": "tiny-of-a-user", "architectures": ["Tiny"], "auto_map": names, "width": 16}
    (folder / "config.json").write_text(json.dumps(entries))
    from safetensors.torch import save_file

    sizes = {"first": (16, 3, 3, 3), "second": (2, 16, 3, 3)}
    state = {f"{name}.weight": torch.randn(size) for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    shape = ("--input-shape", "1,3,16,16")
    asked = ("--target-sparsity", "0.5", "--save-to", str(target), "--trust-remote-code", *shape)
    assert main(["prune", f"hf:{folder}", *asked]) == 0
    assert json.loads((target / "config.json").read_text())["width"] == 8
    loaded = T.AutoModel.from_pretrained(str(target), trust_remote_code=True)
    assert loaded.first.out_channels == 8

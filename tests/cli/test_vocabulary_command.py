"""``torchthin vocabulary``: a folder in, a folder of fewer tokens out, and what it refuses."""

import json
from pathlib import Path

import pytest
from tiny_pretrained import T
from tiny_tokenizers import save_bert

from torchthin.cli.main import main

pytestmark = pytest.mark.usefixtures("foreign_warnings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_bert(tmp_path_factory.mktemp("models") / "bert")
    (made / "vocab.txt").write_text("of the full-size tokenizer")
    return made


def test_a_folder_of_fewer_tokens(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, tokens, target = tmp_path / "texts.txt", tmp_path / "tokens.txt", tmp_path / "small"
    texts.write_text("the fox removes channels\n\na smaller dog\n")
    old = T.AutoTokenizer.from_pretrained(folder)
    named, numbered = old.convert_ids_to_tokens([100, 101])
    tokens.write_text(f"{named}\n101\n")
    command = [
        "vocabulary",
        f"hf:{folder}",
        "--texts",
        str(texts),
        "--tokens",
        str(tokens),
        "--save-to",
        str(target),
    ]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model, tokenizer = T.AutoModel.from_pretrained(target), T.AutoTokenizer.from_pretrained(target)
    assert facts["kept"] == model.config.vocab_size == len(tokenizer) < facts["size"]
    assert facts["parameters"] == model.num_parameters() and facts["proof"]["verdict"] == "exact"
    assert not (target / "vocab.txt").exists()  # it would have the old ids
    assert {named, numbered} <= set(tokenizer.get_vocab())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["bert", "--texts", "texts.txt", "--save-to", "new"],
            "must be a folder of transformers, hf:FOLDER. Got bert",
        ),
        (["hf:bert", "--save-to", "new"], "Which tokens stay must be said"),
        (["hf:bert", "--texts", "texts.txt"], "Give --save-to FOLDER"),
        (["hf:bert", "--texts", "none.txt", "--save-to", "new"], "none.txt cannot be read"),
        (["hf:bert", "--texts", "bad.txt", "--save-to", "new"], "bad.txt must be UTF-8"),
        (
            ["hf:bert", "--tokens", "texts.txt", "--save-to", "new"],
            "must be a token of the tokenizer, or an id. Got 'the fox'",
        ),
        (["hf:bert", "--texts", "empty.txt", "--save-to", "new"], "nothing that keep_tokens should keep"),
        (["hf:bert", "--texts", "texts.txt", "--save-to", "bert"], "must be new or empty"),
        (["hf:bare", "--texts", "texts.txt", "--save-to", "new"], "bare must have the model's tokenizer"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bert").symlink_to(folder)
    Path("bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (Path("bare") / name).symlink_to(folder / name)
    Path("texts.txt").write_text("the fox\n")
    Path("bad.txt").write_bytes(b"\xff\xfe\x00")
    Path("empty.txt").write_text("\n")
    assert main(["vocabulary", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("new").exists()

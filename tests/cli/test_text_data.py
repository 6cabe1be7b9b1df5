"""``--data`` of hf:FOLDER: a text is what its tokens are, and what cannot be used is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_pretrained import FAMILIES, T
from tiny_tokenizers import CORPUS, save_bert

import torchthin
from torchthin.cli.main import main

pytestmark = pytest.mark.usefixtures("foreign_warnings")

ASKED = ("--ratio", "mlp=0.25", "--criterion", "activation", "--no-recover", "--proof", "off", "--save-to")
LINES = CORPUS * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("models") / "bert")


def test_a_text_ranks_channels_by_what_its_tokens_activate(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(LINES), encoding="utf-8")
    tokenizer = T.AutoTokenizer.from_pretrained(folder)
    ids = [number for line in LINES for number in tokenizer(line)["input_ids"]]
    rows = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    assert len(rows) > 8
    np.save(tmp_path / "tokens.npy", rows.numpy().astype(np.int32))
    for name in ("text.txt", "tokens.npy"):
        data = ("--data", str(tmp_path / name))
        assert main(["prune", f"hf:{folder}", *data, *ASKED, str(tmp_path / name.partition(".")[0])]) == 0
    model = T.AutoModel.from_pretrained(folder).eval()
    example = {"input_ids": rows[:2]}
    wanted = torchthin.prune(
        model, example, {"mlp": 0.25}, criterion="activation", data=[{"input_ids": rows}], proof="off"
    ).model.state_dict()
    for name in ("text", "tokens"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(found[key], value) for key, value in wanted.items() if key in found), name
        assert found["encoder.layer.0.intermediate.dense.weight"].shape == (36, 32)


@pytest.mark.parametrize(
    ("text", "source", "told"),
    [
        ("too short", "hf:{folder}", "must have at least 128 tokens"),
        (b"\xff\xfe", "hf:{folder}", "must be UTF-8"),
        (None, "hf:{folder}", "cannot be read"),
        ("a text", "hf:{bare}", "must have the model's tokenizer"),
        ("a text", "net.py:net", "A text is --data of a model hf:FOLDER"),
    ],
    ids=["short", "no text", "missing", "no tokenizer", "no folder"],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    text: str | bytes | None,
    source: str,
    told: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("text.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    if "bare" in source:
        FAMILIES["bert"].model().save_pretrained("bare")
    Path("net.py").write_text("from torch import nn\n\ndef net():\n    return nn.Linear(4, 4)\n")
    ratio = ASKED[2:] if "net" not in source else ("--input-shape", "1,4", "--thin", *ASKED[2:])
    asked = ("--target-sparsity", "0.5", *ratio)
    model = source.format(folder=folder, bare="bare")
    capsys.readouterr()
    assert main(["prune", model, "--data", "text.txt", "--quiet", *asked, "thin"]) == 2
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == 1, line
    assert not Path("thin").exists()

"""torchthin prune: what it does, what it says, what it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from workplace import Workplace, trained_state

from torchthin.cli import main as program
from torchthin.config import ONE_SHOT, PruneConfig, Ratio, Schedule, Target, Unstructured
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model
from torchthin.pruning.one_shot import plan_pruning

MODEL = ("--model-factory", "net.py:net", "--checkpoint", "best.pth")


def loaded(path: str) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    assert isinstance(content, dict)
    return content


def source_model(place: Workplace) -> nn.Module:
    model = build_model("net.py:net")
    model.load_state_dict(trained_state(place.path))
    return model


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("agp-structured", Ratio(0.25)),
        ("l1-structured", Ratio(0.25)),
        ("agp-unstructured", Unstructured(0.25)),
    ],
)
def test_the_file_holds_what_prune_returns(place: Workplace, method: str, target: Target) -> None:
    outcome = place.run(*MODEL, "--method", method, "--target-sparsity", "0.25", "--save-to", "out/p.pth")
    assert (outcome.code, outcome.err) == (0, "")
    config = PruneConfig(target, thin=False, schedule=Schedule() if method.startswith("agp") else ONE_SHOT)
    expected = plan_pruning(source_model(place), None, config).apply()
    content = loaded("out/p.pth")
    state = expected.model.state_dict()
    assert list(content["state_dict"]) == list(state)
    assert all(torch.equal(content["state_dict"][name], value) for name, value in state.items())
    masks = read_checkpoint("out/p.pth").masks
    assert masks.keys() == expected.masks.keys()
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, expected.masks[name])
        assert not content["state_dict"][name][~mask].any()
        assert 0 < (~mask).sum() < mask.numel()
    assert (content["epoch"], content["arch"], content["source"]) == (7, "tiny", "best.pth")
    assert (content["method"], content["target_sparsity"]) == (method, 0.25)
    assert content["torchthin"]["config"]["target_sparsity"] == 0.25
    assert content["torchthin"]["report"] == expected.report.to_dict()
    fresh = build_model("net.py:net")
    fresh.load_state_dict(content["state_dict"])
    assert str(expected) in outcome.out


def test_pruning_a_pruned_file_again(place: Workplace) -> None:
    assert place.run(*MODEL, "--target-sparsity", "0.25", "--save-to", "p.pth").code == 0
    assert place.run(*MODEL[:2], "--checkpoint", "p.pth", "--save-to", "q.safetensors").code == 0
    first, second = read_checkpoint("p.pth"), read_checkpoint("q.safetensors")
    assert (second.epoch, second.arch) == (7, "tiny")
    for name, mask in second.masks.items():
        assert not (mask & ~first.masks[name]).any()  # what was removed is not kept
        assert not second.state_dict[name][~mask].any()


def test_json_is_all_that_stdout_holds(place: Workplace) -> None:
    outcome = place.run("--model-factory", "net.py:loud", "--json", "--save-to", "p.pth")
    report = json.loads(outcome.out)
    assert outcome.code == 0
    assert report == loaded("p.pth")["torchthin"]["report"]
    assert "building" in outcome.err
    assert "Saved p.pth." in outcome.err


def test_quiet_says_nothing_but_errors_and_json(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--quiet", "--save-to", "p.pth")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert Path("p.pth").exists()
    outcome = place.run(*MODEL, "--quiet", "--json")
    assert json.loads(outcome.out)["method"] == "agp-structured"
    assert outcome.err == ""


def test_without_a_file_to_save_it_says_so_and_writes_none(place: Workplace) -> None:
    before = place.files()
    outcome = place.run("--model-factory", "net.py:net")
    assert outcome.code == 0
    assert "No --checkpoint: the weights are as the model factory made them." in outcome.out
    assert "Nothing was written; give --save-to FILE" in outcome.out
    assert place.files() == before


def test_weights_and_keep(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--json", "--weights", "conv1.weight", "fc.weight", "--keep", "fc")
    report = json.loads(outcome.out)
    assert [layer["name"] for layer in report["layers"]] == ["conv1.weight"]
    assert report["kept"] == ["fc.weight"]


def test_list_weights(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--list-weights", "--keep", "conv2")
    assert (outcome.code, outcome.out) == (0, "conv1.weight  8 x 3 x 3 x 3\n")
    outcome = place.run(*MODEL, "--list-weights", "--method", "agp-unstructured", "--json")
    assert json.loads(outcome.out)["weights"] == {
        "conv1.weight": [8, 3, 3, 3],
        "conv2.weight": [4, 8, 1, 1],
        "fc.weight": [2, 4],
    }


def test_factory_arguments(place: Workplace) -> None:
    outcome = place.run("--model-factory", "net.py:net", "--factory-args", '{"width": 32}', "--json")
    assert json.loads(outcome.out)["layers"][0]["shape"] == [32, 3, 3, 3]


def test_a_configuration_file_is_read_and_flags_win(place: Workplace) -> None:
    (place.path / "prune.yaml").write_text(
        "model-factory: net.py:net\nfactory_args: {width: 32}\ntarget-sparsity: 0.25\nmethod: l1-structured\n"
        "keep: conv2\njson: true\ninput-shape: 1,3,8,8\n"
    )
    report = json.loads(place.run("--config", "prune.yaml").out)
    assert (report["method"], report["target_sparsity"], report["kept"]) == (
        "l1-structured",
        0.25,
        ["conv2.weight"],
    )
    report = json.loads(place.run("--config", "prune.yaml", "--target-sparsity", "0.5").out)
    assert (report["method"], report["target_sparsity"]) == ("l1-structured", 0.5)


def test_a_missed_target_exits_3_and_says_why(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--target-sparsity", "0.1", "--weights", "conv2.weight", "--json")
    assert outcome.code == 3
    assert json.loads(outcome.out)["target_reached"] is False
    assert outcome.err.splitlines()[-1].startswith("error: The target was missed. Nothing was pruned")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_file_keeps_the_dtypes_of_its_source(place: Workplace, dtype: torch.dtype) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in trained_state(place.path).items()}
    torch.save(state, "best.pth")
    assert place.run(*MODEL, "--save-to", "p.pth").code == 0
    masks = read_checkpoint("p.pth").masks
    for name, value in loaded("p.pth")["state_dict"].items():
        assert value.dtype == state[name].dtype
        kept = masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, state[name] * kept)


@pytest.mark.parametrize("extra", [{}, {"optimizer_type": torch.optim.Adam}])
def test_a_checkpoint_of_a_gpu_is_read_without_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"state_dict": trained_state(place.path), **extra}, "gpu.pth")
    assert place.run(*MODEL[:2], "--checkpoint", "gpu.pth", "--save-to", "p.pth").code == 0
    assert place.run(*MODEL, "--save-to", "q.pth").code == 0
    one, other = loaded("p.pth")["state_dict"], loaded("q.pth")["state_dict"]
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_what_is_left_out_of_a_checkpoint_is_said(place: Workplace) -> None:
    torch.save({"state_dict": trained_state(place.path), "optimizer_type": torch.optim.Adam}, "best.pth")
    outcome = place.run(*MODEL)
    assert outcome.code == 0
    assert f"optimizer_type ({torch.optim.Adam.__module__}.Adam)" in outcome.out


def test_tied_weights_stay_tied(place: Workplace) -> None:
    (place.path / "tied.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    a, b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)\n"
        "    b.weight = a.weight\n"
        "    return nn.Sequential(a, b)\n"
    )
    assert place.run("--model-factory", "tied.py:net", "--save-to", "p.pth").code == 0
    state = loaded("p.pth")["state_dict"]
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
    assert (
        place.run(
            "--model-factory", "tied.py:net", "--checkpoint", "p.pth", "--save-to", "q.safetensors"
        ).code
        == 0
    )


def test_torchthin_prune_is_the_same_program(place: Workplace) -> None:
    script = place.run(*MODEL, "--save-to", "p.pth")
    command = place.run("prune", *MODEL, "--save-to", "q.pth", main=program.main)
    assert (script.code, command.code) == (0, 0)
    assert command.out.replace("q.pth", "p.pth") == script.out
    assert Path("p.pth").stat().st_size == Path("q.pth").stat().st_size


def test_as_a_user_runs_it(place: Workplace) -> None:
    outcome = place.process(*MODEL, "--save-to", "p.pth", NO_COLOR="1")
    assert (outcome.code, outcome.err) == (0, "")
    assert "conv1.weight" in outcome.out
    assert "\x1b" not in outcome.out
    assert loaded("p.pth")["epoch"] == 7


def test_the_program_names_its_commands(place: Workplace) -> None:
    assert "{prune,inspect" in place.run(main=program.main).out
    outcome = place.run("prun", main=program.main)
    assert (outcome.code, outcome.out) == (2, "")
    assert "choose from" in outcome.err


def test_the_proof_is_as_thorough_as_asked(place: Workplace) -> None:
    example = ("--model-factory", "net.py:net", "--input-shape", "2,3,8,8", "--thin")
    entries: dict[str, Any] = {}
    for level in ("off", "quick", "full"):
        outcome = place.run(
            *example, "--proof", level, "--save-to", f"{level}.pth", "--report", f"{level}.html"
        )
        assert outcome.code == 0, outcome.err
        entries[level] = loaded(f"{level}.pth")["torchthin"]
        assert entries[level]["config"]["proof"] == level
        assert ('not proved (proof="off")' in outcome.out) == (level == "off")
        page = Path(f"{level}.html").read_text()
        assert ("not proved (proof=&#34;off&#34;)" in page) == (level == "off")
    off, quick, full = (entries[level]["report"] for level in entries)
    assert (off["proof"], off["verdict"]) == (None, 'not proved (proof="off")')
    assert quick["verdict"] == full["verdict"] == quick["proof"]["verdict"]
    assert len(full["proof"]["outputs"]) >= len(quick["proof"]["outputs"])
    states = [loaded(f"{level}.pth")["state_dict"] for level in entries]
    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in states[0])


def test_a_proof_that_cannot_be_is_refused(place: Workplace) -> None:
    example = ("--model-factory", "net.py:net", "--input-shape", "2,3,8,8", "--thin")
    place.assert_refused("(--proof) must be one of off, quick, full", *example, "--proof", "all")
    place.assert_refused(
        "must be quick or full with exact=True (--exact)", *example, "--proof", "off", "--exact"
    )

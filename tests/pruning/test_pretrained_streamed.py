"""A plan carried out straight into a folder: the same files as by way of memory, and one tensor in memory at a time."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_pretrained import FAMILIES, T
from torch import Tensor

import torchthin
from torchthin.cli.main import main
from torchthin.errors import ConfigError, InputError
from torchthin.graph.evaluation_mode import has_own_modes
from torchthin.integrations.transformers import from_pretrained
from torchthin.io.checkpoints import stream
from torchthin.pruning.pretrained.weights import saved_forms
from torchthin.thinning.thinned import ThinnedTensors

pytestmark = pytest.mark.usefixtures("foreign_warnings")


def planned(name: str, target: Any = None, **how: Any) -> torchthin.PruningPlan:
    family = FAMILIES[name]
    target = torchthin.Ratio({"mlp": 0.25}, even=True) if target is None else target
    return torchthin.plan(family.model(), family.example, target, **how)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "described"), [("qwen3", True), ("bart", False)])
def test_the_folder_is_what_it_is_by_way_of_memory(name: str, described: bool, tmp_path: Path) -> None:
    plan, how = planned(name), {"described": described, "max_shard_size": "20KB"}
    result = plan.save_pretrained(tmp_path / "streamed", **how)
    whole = plan.apply()
    whole.save_pretrained(tmp_path / "whole", **how)
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")
    assert len(list((tmp_path / "streamed").glob("model-*.safetensors"))) > 2
    assert result.report == whole.report and result.recipe == whole.recipe and result.proof is plan.proof
    inputs = FAMILIES[name].inputs
    assert torch.equal(result.model(**inputs)[0], whole.model(**inputs)[0])
    assert torch.equal(from_pretrained(tmp_path / "streamed")(**inputs)[0], whole.model(**inputs)[0])


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, made = planned("llama"), list[weakref.ref[Tensor]]()
    make = ThinnedTensors.__getitem__

    def watched(self: ThinnedTensors, name: str) -> Tensor:
        assert not any(ref() is not None for ref in made), "an earlier tensor is still there"
        tensor = make(self, name)
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(ThinnedTensors, "__getitem__", watched)
    result = plan.save_pretrained(tmp_path / "thin")
    assert len(made) == len(result.model.state_dict())


def test_files_have_the_names_that_transformers_writes(tmp_path: Path) -> None:
    """Where it writes other tensors than the model has, as of joined experts, that is left to it."""
    for name, family in FAMILIES.items():
        model = family.model()
        model.save_pretrained(tmp_path / name)
        written = load_file(tmp_path / name / "model.safetensors")
        forms, own = saved_forms(model, described=True), saved_forms(model, described=False)
        assert (
            own is not None and own.keys() <= model.state_dict().keys()
        )  # our loader knows the model's own names
        if forms is None:
            assert len(written) != len(own), name
        else:
            assert {n: t.shape for n, t in forms.items()} == {n: t.shape for n, t in written.items()}, name


def test_what_no_configuration_describes_is_refused_before_anything_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("llama", torchthin.Ratio({"mlp": 0.5}, scope="global"))
    monkeypatch.setattr(stream, "_write_shard", None)
    with pytest.raises(InputError, match="intermediate_size of LlamaConfig is one number for"):
        plan.save_pretrained(tmp_path / "thin")
    with pytest.raises(ConfigError, match=r"max_shard_size must be a size such as .* Got 'large'"):
        plan.save_pretrained(tmp_path / "thin", max_shard_size="large")
    assert list(tmp_path.iterdir()) == []


def test_where_single_weights_go_the_folder_is_written_too(tmp_path: Path) -> None:
    result = planned("bert", torchthin.Unstructured(0.5)).save_pretrained(tmp_path / "masked")
    loaded = T.AutoModel.from_pretrained(str(tmp_path / "masked"))
    assert torch.equal(loaded(**FAMILIES["bert"].inputs)[0], result.model(**FAMILIES["bert"].inputs)[0])


def test_an_interrupted_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of several shards is not finished; the next run makes all but the first, and the folder is the same."""
    source = tmp_path / "source"
    FAMILIES["llama"].model().save_pretrained(source)
    monkeypatch.setattr("torchthin.pruning.pretrained.save.SHARD", "20KB")

    def prune(target: str, ratio: str = "mlp=0.5") -> int:
        folder = str(tmp_path / target)
        return main(["prune", f"hf:{source}", "--ratio", ratio, "--proof", "off", "--save-to", folder])

    write, begun = stream._write_shard, list[str]()

    def interrupted(path: Path, *rest: Any) -> None:
        begun.append(path.name)
        write(path, *rest)
        if len(begun) == 2:
            raise KeyboardInterrupt

    assert prune("whole") == 0
    shards = sorted(path.name for path in (tmp_path / "whole").glob("model-*.safetensors"))
    monkeypatch.setattr(stream, "_write_shard", interrupted)
    assert prune("thin") not in (0, 2)
    (left,) = tmp_path.glob(".torchthin-*")
    assert not (tmp_path / "thin").exists()
    begun.append("counted")
    assert prune("thin") == 0
    assert begun == [*(f"{name}.part" for name in shards[:2]), "counted", *(f"{n}.part" for n in shards[1:])]
    assert files(tmp_path / "thin") == files(tmp_path / "whole")
    assert not left.exists()
    capsys.readouterr()


def test_weights_of_transformers_are_widened_as_they_are_read() -> None:
    """`PreTrainedModel` has methods of its own for modes, which only choose kernels: no whole copy is made for their sake."""
    kinds = {type(module) for family in FAMILIES.values() for module in family.model().modules()}
    assert not any(map(has_own_modes, kinds))

    class Merging(T.LlamaForCausalLM):  # type: ignore[name-defined, misc]
        def train(self, mode: bool = True) -> Any:
            return super().train(mode)

    assert has_own_modes(Merging)

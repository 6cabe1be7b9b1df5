"""The checkpoint: names, order, types, and numbers that compute what the model computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from synthesis_networks import Ai8xResidual, Residual, alive, chain, conv, network
from torch import Tensor, nn
from torch.nn import functional as F

from torchthin.errors import CheckpointError, InputError, ProofError, TargetMissedError
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dBNReLU
from torchthin.max7800x.synthesis import files, ready_for_synthesis, save_for_synthesis, weights
from torchthin.max7800x.synthesis.network import chip_network
from torchthin.max7800x.synthesis.weights import SETTINGS, folded_input

IMAGES = torch.zeros(1, 3, 16, 16)


def state_of(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_the_checkpoint_of_ai8x_layers(tmp_path: Path) -> None:
    model = alive(Ai8xResidual())
    written = save_for_synthesis(model, IMAGES, tmp_path, arch="net", epoch=7, extras={"top1": 0.5})
    content = torch.load(written.checkpoint, weights_only=True)
    assert {key: content[key] for key in ("epoch", "arch", "extras")} == {
        "epoch": 7,
        "arch": "net",
        "extras": {"top1": 0.5},
    }
    assert set(content) == {"epoch", "arch", "extras", "state_dict"}
    state = content["state_dict"]
    layers = ("conv1", "conv2", "conv3", "conv4", "fc")
    assert list(state) == [
        f"{layer}.{name}" for layer in layers for name in (*SETTINGS, "op.weight", "op.bias")
    ]
    for name in SETTINGS:
        assert state[f"conv1.{name}"].shape == (1,)
        assert torch.equal(state[f"conv1.{name}"], model.get_parameter(f"conv1.{name}"))


def test_batch_norm_is_folded_with_its_eps_and_the_division_by_4(tmp_path: Path) -> None:
    model = nn.Sequential(FusedConv2dBNReLU(3, 8, 3, padding=1, eps=0.25))
    alive(model)
    state = state_of(save_for_synthesis(model, IMAGES, tmp_path, arch="net").checkpoint)
    bn: Any = model[0].bn
    gain = bn.weight / 4 / (bn.running_var + 0.25).sqrt()
    op: Any = model[0].op
    torch.testing.assert_close(state["0.op.weight"], op.weight * gain[:, None, None, None], rtol=1e-6, atol=0)
    torch.testing.assert_close(state["0.op.bias"], (op.bias - bn.running_mean) * gain + bn.bias / 4)


def test_plain_layers_written_compute_what_the_model_computes(tmp_path: Path) -> None:
    """Run from the file alone, by hand, on the folded input."""
    model, images = network("chain")
    state = state_of(save_for_synthesis(model, images, tmp_path, arch="net").checkpoint)
    names = ("0", "4", "6", "10", "13", "16")
    assert [name for name in state if name.endswith("weight")] == [f"{name}.op.weight" for name in names]
    w = {name: (state[f"{name}.op.weight"], state[f"{name}.op.bias"]) for name in names}
    x = F.conv2d(folded_input(images, (2, 2)), *w["0"], padding=1).relu()
    x = F.conv2d(F.max_pool2d(x, 2), *w["4"], padding=1).relu()
    x = F.conv2d(x, *w["6"]).relu()
    x = F.conv_transpose2d(F.avg_pool2d(x, 2), *w["10"], stride=2, padding=1, output_padding=1).relu()
    x = F.conv2d(F.max_pool2d(x, 2), *w["13"], padding=1).relu()
    torch.testing.assert_close(F.linear(x.flatten(1), *w["16"]), model(images), rtol=1e-5, atol=1e-6)


def test_the_fold_has_the_order_of_ai8x_training() -> None:
    image = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    parts = [image[0, :, i::2, j::2] for i in range(2) for j in range(2)]
    assert torch.equal(folded_input(image, (2, 2))[0], torch.cat(parts))


def test_the_sample_is_the_example_as_the_chip_takes_it(tmp_path: Path) -> None:
    model, images = network("chain")
    written = save_for_synthesis(model, images, tmp_path, arch="net")
    sample = np.load(written.sample)
    assert (sample.shape, sample.dtype) == ((12, 16, 16), np.int64)
    assert np.array_equal(sample, (folded_input(images, (2, 2))[0] * 128).numpy())


def test_a_module_called_twice_is_written_twice(tmp_path: Path) -> None:
    model, images = network("two_heads")
    state = state_of(save_for_synthesis(model, images, tmp_path, arch="net").checkpoint)
    assert torch.equal(state["again.op.weight"], state["again_2.op.weight"])
    assert [name for name in state if name.endswith("weight")] == [
        f"{name}.op.weight" for name in ("stem", "again", "again_2", "left", "right")
    ]


def test_constants_and_computed_weights_are_folded(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(conv(3, 8))
            self.gain = nn.Parameter(torch.rand(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = (2 * self.conv(x) - 0.25) * self.gain / 3
            return y.add(self.gain, alpha=2).relu()

    model = Scaled().eval()
    images = torch.rand(1, 3, 16, 16)
    state = state_of(save_for_synthesis(model, images, tmp_path, arch="net").checkpoint)
    result = F.conv2d(images, state["conv.op.weight"], state["conv.op.bias"], padding=1).relu()
    torch.testing.assert_close(result, model(images))


def test_the_description_reads_as_yaml(tmp_path: Path) -> None:
    model, images = network("fire")
    written = save_for_synthesis(model, images, tmp_path, name="small", arch="fire", dataset="CIFAR10")
    assert [path.name for path in written.paths()] == [
        "small_synthesis.pth.tar",
        "small.yaml",
        "small_sample.npy",
    ]
    content = yaml.safe_load(written.description.read_text())
    assert (content["arch"], content["dataset"], len(content["layers"])) == ("fire", "CIFAR10", 7)
    left, right, joined = content["layers"][4:7]
    assert (left["write_gap"], right["write_gap"], joined["in_sequences"]) == (1, 1, [4, 5])
    assert right["out_offset"] == left["out_offset"] + 4 == joined["in_offset"] + 4


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    model, images = network("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_for_synthesis(model.train(), images, tmp_path)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (tmp_path / "residual.yaml").exists()


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "kernel": (nn.Sequential(conv(3, 8), conv(8, 8, 5)), "1: kernel 5x5; allowed is 1x1 or 3x3"),
    "stride": (nn.Sequential(conv(3, 8), conv(8, 8, stride=2)), "1: stride 2x2; it must be 1"),
    "dilation": (nn.Sequential(conv(3, 8), conv(8, 8, dilation=2)), "1: dilation 2x2; it must be 1"),
    "channels": (nn.Sequential(conv(3, 8), conv(8, 1032, 1, bias=False)), "1: 1032 output channels; MAX78000 has at most"),
    "operator": (nn.Sequential(conv(3, 8), nn.Sigmoid(), conv(8, 8)), "1: sigmoid, the chip has no such operation"),
    "uneven": (nn.Sequential(conv(3, 8, padding=(0, 1))), "0: padding 0 x 1; a network description has one"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_chip_cannot_run_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        save_for_synthesis(model.eval(), IMAGES, tmp_path / "new", arch="net")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_what_does_not_fit_is_a_missed_target(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 64), *(conv(64, 64) for _ in range(13))).eval()
    with pytest.raises(TargetMissedError, match="does not fit MAX78000"):
        save_for_synthesis(model, IMAGES, tmp_path / "new", arch="net")
    assert not (tmp_path / "new").exists()


def test_an_unfused_batch_norm_in_quantisation_aware_mode_is_refused(tmp_path: Path) -> None:
    model = alive(Ai8xResidual())
    initiate_qat(model)
    with pytest.raises(
        InputError, match="conv1: BatchNorm or a constant after a layer in quantisation-aware mode"
    ):
        save_for_synthesis(model, IMAGES, tmp_path)


def test_what_is_zero_or_equal_is_counted_as_the_tool_stores_it() -> None:
    """Figures of quantize.py and ai8xize.py for layers of 1 bit that are all zero, biases that are zero, equal biases."""
    torch.manual_seed(0)
    layers = [Conv2d(16 if number else 3, 16, 3, padding=1, activation="ReLU") for number in range(6)]
    model = nn.Sequential(*layers, Conv2d(16, 10, 1, wide=True)).eval()
    initiate_qat(model)
    ops: list[Any] = [layer.op for layer in layers]
    with torch.no_grad():
        for number, value in ((1, 0.9), (2, 0.3)):
            ops[number].weight.mul_(0.01)
            ops[number].bias.fill_(value)
            layers[number].set_quantization(1)
        ops[3].bias.mul_(1e-4)
        ops[4].weight.zero_()
        ops[4].bias.fill_(0.3)
        ops[5].bias.copy_(ops[0].bias)
        ops[5].weight.flatten()[0] = ops[0].weight.abs().max()
    network = chip_network(model, torch.rand(1, 3, 16, 16))
    cost = network.report.cost
    assert [row.kernel_offset for row in cost.layers] == [0, 16, 16, 20, 36, 52, 68]
    assert (cost.weight_bytes, cost.bias_bytes) == (7_792, 42)
    assert [entry.get("quantization") for entry in network.entries] == [None, 1, 1, None, 8, None, None]
    assert "4: all its weights are zero in 8 bits. Remove it, or train it with more." in network.notes


def test_a_sum_beyond_the_range_of_the_chip_is_no_proof(tmp_path: Path) -> None:
    """Plain addition between ai8x layers is not limited, the chip's is."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (FusedConv2dBNReLU(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            result: Tensor = self.three(x + self.two(x))
            return result

    model = Sum().eval()
    for layer in (model.one, model.two):
        nn.init.constant_(layer.op.bias, 8.0)  # type: ignore[union-attr, arg-type]
    with pytest.raises(ProofError, match="three: as written for MAX78000 it differs from the model"):
        save_for_synthesis(model, IMAGES, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_wrong_fold_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BATCH_NORM_DIVISOR", 2.0)
    with pytest.raises(ProofError, match="conv1: as written"):
        save_for_synthesis(alive(Ai8xResidual()), torch.rand(1, 3, 16, 16), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_values_beyond_the_range_of_the_chip_are_told() -> None:
    model = nn.Sequential(conv(3, 8)).eval()
    nn.init.constant_(model[0].bias, 3.0)  # type: ignore[arg-type]
    ready = ready_for_synthesis(model, IMAGES, "out", arch="net")
    assert "0 stores values up to 3 on the example inputs" in str(ready)


def test_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file fails: the first is as it was before."""
    ready = ready_for_synthesis(Residual().eval(), IMAGES, tmp_path, arch="net")
    ready.files.checkpoint.write_bytes(b"old")
    whole = files.write_whole

    def full(path: Path, write: Any) -> None:
        if path.suffix == ".yaml":
            raise OSError(28, "No space left on device")
        whole(path, write)

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        ready.write()
    assert ready.files.checkpoint.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [ready.files.checkpoint.name]


def test_an_output_that_a_later_layer_overwrites_is_refused(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three, self.four = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 8)

        def forward(self, x: Tensor) -> Any:
            x = self.one(x)
            return x, self.four(self.three(self.two(x)))

    with pytest.raises(InputError, match=r"one: an output of the network that .* overwrites"):
        save_for_synthesis(Both().eval(), IMAGES, tmp_path)


def test_a_wrong_arch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The arch must be a name"):
        save_for_synthesis(chain().eval(), torch.zeros(1, 3, 32, 32), tmp_path, arch="a b")

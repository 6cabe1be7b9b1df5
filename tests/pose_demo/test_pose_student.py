import torch

from pose_demo.student import PoseStudent, pose_student
from torchthin.max7800x.ai8x.base import ai8x_layers

SHAPES = {
    "conv1": (24, 3, 3),
    "conv2": (24, 24, 3),
    "conv3": (48, 24, 3),
    "conv4": (48, 48, 3),
    "conv5": (64, 48, 3),
    "conv6": (64, 64, 3),
    "conv7": (96, 64, 3),
    "conv8": (96, 96, 3),
    "cpm1": (64, 96, 1),
    "cpm2": (64, 64, 3),
    "cpm3": (64, 64, 3),
    "heat_conv": (48, 64, 1),
    "heat_out": (19, 48, 1),
    "paf_conv": (48, 64, 1),
    "paf_out": (38, 48, 1),
}


def test_layers_are_those_of_the_chip_model() -> None:
    model = PoseStudent()
    assert [name for name, _ in model.named_children()] == list(SHAPES)
    for name, (out, into, kernel) in SHAPES.items():
        op = model.get_submodule(name).op
        assert tuple(op.weight.shape) == (out, into, kernel, kernel)
        assert op.bias is not None
        assert op.padding == ((1, 1) if kernel == 3 else (0, 0))
        assert op.stride == ((2, 2) if name == "conv1" else (1, 1))
    pooled = [name for name, layer in model.named_children() if layer.pool is not None]
    wide = [name for name, layer in model.named_children() if layer.wide]
    bare = [name for name, layer in model.named_children() if layer.bn is None]
    assert pooled == ["conv4", "conv6"]
    assert wide == bare == ["heat_out", "paf_out"]
    assert len(ai8x_layers(model)) == 15
    assert sum(parameter.numel() for parameter in model.parameters()) == 330_843


def test_outputs_are_a_list_of_heatmaps_and_fields() -> None:
    model = pose_student().eval()
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 128, 128) * 2 - 1)
    assert isinstance(outputs, list)
    assert [tuple(output.shape) for output in outputs] == [(2, 19, 16, 16), (2, 38, 16, 16)]

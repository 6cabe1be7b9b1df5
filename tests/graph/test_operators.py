"""Which operators a family holds, that torch's schemas agree, and that no other file lists the family again."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from torchthin.graph import operators as ops

FAMILIES = {
    "CONVOLUTIONS": "_convolution convolution",
    "MATRIX_PRODUCTS": "_addmm_activation addmm addmm_ mm",
    "BATCHED_PRODUCTS": "baddbmm baddbmm_ bmm",
    "GROUPED_PRODUCTS": "_grouped_mm",
    "LAYER_PRODUCTS": "addmm convolution mm",
    "ATTENTION": "_scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_fused_attention_overrideable",
    "BATCH_NORMS": "_batch_norm_no_update _batch_norm_with_update _native_batch_norm_legit "
    "_native_batch_norm_legit_functional _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm "
    "native_batch_norm",
    "LAYER_NORMS": "_fused_rms_norm native_layer_norm",
    "MAX_POOLS_2D": "max_pool2d_with_indices",
    "AVERAGE_POOLS_2D": "avg_pool2d",
    "ADAPTIVE_POOLS_2D": "_adaptive_avg_pool2d adaptive_max_pool2d",
    "POOLS": "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d "
    "max_pool2d_with_indices max_pool3d_with_indices",
    "VIEWS": "_reshape_alias _unsafe_view view",
    "SQUEEZES": "squeeze squeeze_ unsqueeze unsqueeze_",
    "SPLITS": "split split_with_sizes unsafe_split unsafe_split_with_sizes",
    "MOVES": "_reshape_alias _unsafe_view alias clone expand permute select slice split split_with_sizes squeeze t "
    "transpose unbind unsafe_split unsafe_split_with_sizes unsqueeze view",
    "ADDITIONS": "add add_",
    "LINEAR_ELEMENTWISE": "add div mul neg sub",
}
PACKAGE = Path(ops.__file__).parents[1]


def overloads(operator: str) -> list[torch._ops.OpOverload]:
    """Return the overloads of an operator; none where this torch does not have it."""
    packet = getattr(torch.ops.aten, operator.removeprefix("aten."), None)
    return [] if packet is None else [getattr(packet, name) for name in packet.overloads()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_holds(family: str) -> None:
    assert sorted(getattr(ops, family)) == [f"aten.{name}" for name in FAMILIES[family].split()]


def composite(overload: torch._ops.OpOverload) -> bool:
    """Whether torch takes an operator apart before a dispatch mode sees it, whatever the device."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return has(overload.name(), "CompositeImplicitAutograd") and not has(overload.name(), "Autograd")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorder_can_see_every_operator_of_a_family(family: str) -> None:
    found = {operator: overloads(operator) for operator in getattr(ops, family)}
    assert [
        name for name, all_of_them in found.items() if all_of_them and all(map(composite, all_of_them))
    ] == []


@pytest.mark.parametrize("operator", sorted(ops.CONTRACTIONS))
def test_operands_are_tensors_of_the_schema(operator: str) -> None:
    for overload in overloads(operator):
        tensors = {
            a.name for a in overload._schema.arguments if str(a.type) in ("Tensor", "Optional[Tensor]")
        }
        assert {name for name in ops.CONTRACTIONS[operator] if name} <= tensors


@pytest.mark.parametrize("operator", sorted(ops.MOVES))
def test_a_move_takes_one_tensor_and_writes_none(operator: str) -> None:
    arguments = [o._schema.arguments for o in overloads(operator) if not o._schema.is_mutable]
    tensors = [[a.name for a in given if str(a.type) == "Tensor"] for given in arguments]
    assert ["self"] in tensors and all(names in (["self"], []) for names in tensors)


def test_no_other_file_lists_a_family() -> None:
    """Three operators of one family in one literal are a second list of it."""
    families = [set(getattr(ops, name)) for name in FAMILIES if name not in ("MOVES", "LINEAR_ELEMENTWISE")]
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path == Path(ops.__file__) or not isinstance(node, ast.Set | ast.Tuple | ast.List | ast.Call):
                continue
            parts = node.args if isinstance(node, ast.Call) else node.elts
            names = {part.value for part in parts if isinstance(part, ast.Constant)}
            found += [f"{path.name}:{node.lineno}" for family in families if len(names & family) > 2]
    assert found == []

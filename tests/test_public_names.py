"""The public surface is what `__all__` says, no more and no less."""

import inspect
import subprocess
import sys

import torchthin

NAMES = {
    "NM",
    "Budget",
    "Chip",
    "Comparison",
    "Distiller",
    "InputError",
    "Inspection",
    "Proof",
    "ProofError",
    "PruneConfig",
    "PruneReport",
    "PruneResult",
    "Pruner",
    "PruningPlan",
    "Ratio",
    "Recipe",
    "Recovery",
    "Schedule",
    "TargetMissedError",
    "Thinned",
    "TorchthinError",
    "Unstructured",
    "bench",
    "compare",
    "export",
    "inspect",
    "list_chips",
    "list_criteria",
    "load",
    "load_mapped",
    "plan",
    "prune",
    "recover",
    "register_channel_criterion",
    "register_criterion",
    "register_op",
    "save",
    "sensitivity",
    "thin_",
    "verify",
}


def test_all_lists_the_public_names() -> None:
    assert set(torchthin.__all__) == NAMES
    assert sorted(torchthin.__all__) == dir(torchthin)


def test_every_public_name_is_there_and_documented() -> None:
    for name in torchthin.__all__:
        value = getattr(torchthin, name)
        assert not inspect.ismodule(value), f"{name} is hidden by the module of that name"
        if callable(value):
            assert inspect.getdoc(value), name
            assert value.__module__.startswith("torchthin."), name


def test_nothing_public_is_left_out() -> None:
    modules = {"annotations", "importlib"}
    bound = {name for name, value in vars(torchthin).items() if not inspect.ismodule(value)}
    public = {name for name in bound if not name.startswith("_")} - modules - {"Any", "TYPE_CHECKING"}
    assert public <= NAMES


def test_unknown_names_raise_attribute_errors() -> None:
    assert not hasattr(torchthin, "prune_everything")


def test_importing_the_package_and_the_config_does_not_import_torch() -> None:
    code = (
        "import sys, torchthin, torchthin.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The whole list."""

from __future__ import annotations

import importlib.util

from zoo.case import Case


def cases(*, source: str | None = None) -> dict[str, Case]:
    """Return the cases by name.

    Args:
        source: ``torchvision`` or ``transformers`` for one half only; None for both.

    Raises:
        ModuleNotFoundError: a library whose models are asked for is not installed.
    """
    found: list[Case] = []
    for name in ("torchvision", "transformers") if source is None else (source,):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"The zoo needs {name}: pip install {name} (with --no-deps for torchvision)."
            )
        if name == "torchvision":
            from zoo.torchvision_models import torchvision_cases

            found += torchvision_cases()
        else:
            from zoo.transformers_models import transformers_cases

            found += transformers_cases()
    return {case.name: case for case in found}

"""Targets and options of pruning, each checked where it is made.

A target says how much is removed and by which rule: `Ratio`, `Budget`, `Unstructured`, `NM`, `Distiller`, and `Chip` in
`torchthin.max7800x`. `PruneConfig` is everything that one run is asked, as one value. Each field names its flag of the command
line and its help text here, and nowhere else. Importing this does not import torch, so that ``--help`` stays fast.
"""

from torchthin.config.distiller import DISTILLER_METHODS, Distiller, DistillerMethod
from torchthin.config.options import (
    Limit,
    check_share,
    check_whole,
    key_of,
    limits,
    option,
    options_of,
    parse_latency,
    parse_limit,
    refuse,
)
from torchthin.config.runs import (
    CHANNEL_CRITERIA,
    MAX_SAMPLES,
    ONE_SHOT,
    PROOFS,
    WEIGHT_CRITERIA,
    WEIGHT_DATA_CRITERIA,
    Pixels,
    PruneConfig,
    Recovery,
    Schedule,
    recovery_of,
)
from torchthin.config.targets import (
    LAYERS,
    SCOPES,
    Budget,
    Ratio,
    Target,
    as_target,
)
from torchthin.config.weight_targets import NM, Unstructured

__all__ = [
    "CHANNEL_CRITERIA",
    "DISTILLER_METHODS",
    "LAYERS",
    "MAX_SAMPLES",
    "NM",
    "ONE_SHOT",
    "PROOFS",
    "SCOPES",
    "WEIGHT_CRITERIA",
    "WEIGHT_DATA_CRITERIA",
    "Budget",
    "Distiller",
    "DistillerMethod",
    "Limit",
    "Pixels",
    "PruneConfig",
    "Ratio",
    "Recovery",
    "Schedule",
    "Target",
    "Unstructured",
    "as_target",
    "check_share",
    "check_whole",
    "key_of",
    "limits",
    "option",
    "options_of",
    "parse_latency",
    "parse_limit",
    "recovery_of",
    "refuse",
]

"""Models as files that need nothing of this package: `.pt2` (torch.export) and ONNX, each run and compared before it is kept."""

from torchthin.io.export.export_model import Exported, export
from torchthin.io.export.fold_batchnorm import fold_batchnorm

__all__ = ["Exported", "export", "fold_batchnorm"]

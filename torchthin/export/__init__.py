"""Models as files that need nothing of this package: `.pt2` (torch.export) and ONNX, each run and compared before it is kept."""

from torchthin.export.exporting import Exported, export
from torchthin.export.folding import fold_batchnorm

__all__ = ["Exported", "export", "fold_batchnorm"]

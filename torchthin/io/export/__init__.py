"""Models as files that need nothing of this package: `.pt2` (torch.export) and ONNX, each run and compared before it is kept."""

from torchthin.io.export.batchnorm import fold_batchnorm
from torchthin.io.export.export_model import Exported, export

__all__ = ["Exported", "export", "fold_batchnorm"]

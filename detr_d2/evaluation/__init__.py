"""What is done with a finished model: predictions on files, results as records, timing, side-by-side pictures.

Nothing here trains, and nothing here knows a particular architecture: a detectron2 model in eval mode is enough.
"""

from .batch_prediction import BatchPredictor
from .benchmark import Timing, interleave, machine_info, ratio_of
from .prediction import Categories, ImagePredictor
from .results import RunResult, results_table

__all__ = [
    "BatchPredictor",
    "Categories",
    "ImagePredictor",
    "RunResult",
    "Timing",
    "interleave",
    "machine_info",
    "ratio_of",
    "results_table",
]

"""Long-context text: recall, needles, RULER and LongBench."""

from septet.datamodules.long_context.datamodule import LongContextText
from septet.datamodules.long_context.synthetic import NeedleSample, needle_samples

__all__ = ["LongContextText", "NeedleSample", "needle_samples"]

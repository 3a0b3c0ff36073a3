"""MSCMNet and AGW: visible-infrared person re-identification."""

from septet.lightning_modules.mscmnet.module import AGW, MSCMNet

__all__ = ["AGW", "MSCMNet"]

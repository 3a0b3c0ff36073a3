"""Septet: seven research methods on PyTorch Lightning, trained and measured the same way."""

__version__ = "0.1.0"
__all__ = ["__version__"]

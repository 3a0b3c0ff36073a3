"""Offer the operators to mmcv as ``mmcv._ext`` when no compiled extension is importable."""

import contextlib
import functools
import importlib
import importlib.machinery
import io
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

PROVIDED = (
    "nms",
    "roi_align_forward",
    "roi_align_backward",
    "deform_conv_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "modulated_deform_conv_forward",
    "modulated_deform_conv_backward",
    "sigmoid_focal_loss_forward",
    "sigmoid_focal_loss_backward",
    "get_compiler_version",
    "get_compiling_cuda_version",
)
"""Names served; mmcv only checks at import that every other name exists."""

_MODULE = "mmcv._ext"
_REMEDY = (
    "build the compiled operators (MMCV_WITH_OPS=1 pip install --no-build-isolation onedl-mmcv, on a machine with a "
    "compiler) or choose a detector that does not use it"
)


def _missing(name: str) -> Callable[..., NoReturn]:
    """A stand-in for an operator that is not provided: exists, raises when called."""
    if name.startswith("_"):
        raise AttributeError(name)

    def raise_missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"mmcv operator {name!r} is not provided without compiled mmcv: {_REMEDY}")

    raise_missing.__name__ = name
    return raise_missing


def _compiled_importable() -> bool:
    try:
        importlib.import_module(_MODULE)
    except (ImportError, OSError):
        return False
    return True


def provided() -> bool:
    """Whether ``mmcv._ext`` is ours at this moment."""
    return getattr(sys.modules.get(_MODULE), "septet_provider", False) is True


def install() -> bool:
    """Put the provider in place unless a compiled extension can be imported; call before ``import mmcv.ops``.

    Returns:
        True if ``mmcv._ext`` is the provider (also on repeated calls), False if it is the compiled extension.
    """
    if provided():
        return True
    if _compiled_importable():
        return False
    from septet.kernels.detection import ops

    module = types.ModuleType(_MODULE, "Torchvision-backed operators put in place by septet.")
    for name in PROVIDED:
        setattr(module, name, getattr(ops, name))
    spec = importlib.machinery.ModuleSpec(_MODULE, loader=None)
    module.__dict__.update(septet_provider=True, __getattr__=_missing, __spec__=spec)
    sys.modules[_MODULE] = module
    return True


@functools.cache
def import_mmdet() -> None:
    """Import mmdet with all its modules registered, once per process (data workers included).

    Raises:
        ImportError: if the detection extra is not installed.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module("mmcv")
            install()
            utils = importlib.import_module("mmdet.utils")
            utils.register_all_modules(init_default_scope=True)
    except ModuleNotFoundError as error:
        raise ImportError(f"pkd needs the detection extra: pip install 'septet[detection]' ({error})") from error

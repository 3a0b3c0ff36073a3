"""The links at the root are signposts: pytest walks the real folders under src."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

collect_ignore = ["lightning_modules", "datamodules", "kernels", "configs", "launch", "build", "runs"]

if os.environ.get("CI"):
    try:
        from hypothesis import settings
    except ImportError:
        pass
    else:  # the same examples in every run; developers' runs go on searching
        settings.register_profile("ci", derandomize=True)
        settings.load_profile("ci")

"""``septet data verify|fetch|prepare|generate|... KIND``: hands over to the room of that kind of data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from septet.launch.errors import UsageError, did_you_mean

ACTIONS = {
    "verify": "check files against their checksums and rules",
    "fetch": "download from a URL of yours, or print where the data are published",
    "prepare": "convert into the layout the readers want",
    "generate": "write seeded synthetic data",
    "ingest": "add result records to the store (scenarios only)",
    "retract": "take records out of the store, with the reason (scenarios only)",
    "export": "write the store's records (scenarios only)",
}
STORE = ("ingest", "retract", "export")
KINDS = {
    "long_context": "texts and needles (cake, fairkv)",
    "temporal_graph": "event streams (cne_n)",
    "video": "driving clips with motions (drivingdojo)",
    "reid": "visible-infrared person images (mscmnet)",
    "coco": "detection images with COCO annotations (pkd)",
    "scenarios": "result tables (smap)",
}


def main(argv: Sequence[str]) -> int:
    """Dispatch to ``septet.datamodules.<kind>.commands.main(action, argv)``."""
    arguments = list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: septet data ACTION KIND [options]\n\nactions:")
        for name, text in ACTIONS.items():
            print(f"  {name:<10} {text}")
        print("\nkinds:")
        for name, text in KINDS.items():
            print(f"  {name:<15} {text}")
        return 0 if arguments else 2
    action = arguments.pop(0)
    if action not in ACTIONS:
        raise UsageError(f"no action {action!r}{did_you_mean(action, ACTIONS)}")
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"septet data {action} needs a kind of data: {', '.join(KINDS)}")
    kind = arguments.pop(0)
    if kind not in KINDS:
        raise UsageError(f"no kind of data {kind!r}{did_you_mean(kind, KINDS)}")
    if action in STORE and kind != "scenarios":
        raise UsageError(f"septet data {action} serves the store of result records: septet data {action} scenarios")
    try:
        commands = importlib.import_module(f"septet.datamodules.{kind}.commands")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("septet"):
            raise UsageError(f"septet data {action} {kind}: not built yet") from error
        raise
    try:
        code = commands.main(action, arguments)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return int(code)

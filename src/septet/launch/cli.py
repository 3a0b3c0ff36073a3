"""The command ``septet``: a light dispatcher that imports nothing heavy until a stage runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from septet.launch.arguments import parse_stage_arguments
from septet.launch.errors import UsageError, did_you_mean
from septet.launch.stage_help import stage_help

STAGES = {
    "fit": "train a method",
    "validate": "evaluate on the validation split",
    "test": "evaluate on the test split",
    "predict": "write predictions for your own input",
}
COMMANDS = {
    "methods": ("septet.launch.methods_command", "list the methods, or show one"),
    "data": ("septet.launch.data", "verify, fetch, prepare or generate data"),
    "report": ("septet.launch.report", "Markdown and HTML report of runs, paper against ours"),
    "doctor": ("septet.launch.doctor", "what works on this machine, and the remedy for what does not"),
    "bench": ("septet.launch.bench", "measure every figure that the READMEs quote"),
    "launch": ("septet.launch.slurm.commands", "render, submit and follow SLURM jobs"),
    "assign": ("septet.launch.assign", "which model and data set for a scenario (SMAP over the ledger)"),
    "logs": ("septet.launch.logs", "synchronise offline logs"),
}


def usage() -> str:
    """The text of ``septet --help``."""
    lines = ["usage: septet COMMAND [options]", "", "stages (LightningCLI; septet fit --help):"]
    lines += [f"  {name:<10} {text}" for name, text in STAGES.items()]
    lines += ["", "commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "first steps: septet methods list; septet fit -c configs/cne_n/smoke.yaml;",
        "             septet test --run cne_n/smoke; septet report cne_n/smoke",
        "exit codes: 0 ok, 1 failed, 2 wrong input, 75 preempted, 130 interrupted",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command in this process.

    Args:
        argv: arguments without the program's name; None takes ``sys.argv[1:]``.

    Returns:
        0 ok, 1 failed, 2 usage, 75 preempted, 130 Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        from septet import __version__

        print(f"septet {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else 2)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except UsageError as error:
        if os.environ.get("SEPTET_TRACEBACK") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a run finds the same fault
            _say(str(error))
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _dispatch(name: str, arguments: list[str]) -> int:
    if name in STAGES:
        if any(a in ("-h", "--help") for a in arguments):
            print(stage_help(name))
            return 0
        from septet.launch.signals import note_from_now_on

        note_from_now_on()
        asks_only = "--help-all" in arguments
        parsed = None if asks_only else parse_stage_arguments(name, arguments)  # typos answer before heavy imports
        from septet.launch.stages import run_stage

        return run_stage(name, arguments, parsed)
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}{did_you_mean(name, [*STAGES, *COMMANDS])} (septet --help)")
    code = importlib.import_module(COMMANDS[name][0]).main(arguments)
    return int(code)


def _say(text: str) -> None:
    """One line on standard error."""
    print(f"septet: {' '.join(text.split())}", file=sys.stderr)

"""``septet fit|validate|test|predict``: LightningCLI with run directories, honest weights and one-line errors."""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
import warnings
from pathlib import Path

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from septet.launch.arguments import StageArguments
from septet.launch.errors import UsageError
from septet.launch.lightning_cli import SeptetCLI
from septet.launch.messages import tidy_message
from septet.launch.preemption import PREEMPTED, Preempted
from septet.launch.quiet import quiet_lightning


def run_stage(stage: str, arguments: list[str], parsed: StageArguments | None = None) -> int:
    """Run one Lightning stage; returns the exit code.

    Args:
        stage: fit, validate, test or predict.
        arguments: as typed.
        parsed: the same, taken apart already; None for ``--help-all``.

    Raises:
        UsageError: for everything a user got wrong, before training starts.
    """
    if parsed is None:
        return _parse_only(StageArguments(stage=stage, argv=["--help"]))
    if any(a.startswith("--print_config") for a in arguments):
        return _parse_only(parsed)
    kept, sys.argv = sys.argv, [sys.argv[0], stage, *parsed.argv]
    environment = dict(os.environ)
    quiet_lightning()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own module beside the configuration
    try:
        with warnings.catch_warnings():
            return _run(parsed)
    finally:
        sys.argv = kept
        for key in ("SEPTET_RUN_DIR", "SEPTET_CKPT", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            if key in environment:
                os.environ[key] = environment[key]
            else:
                os.environ.pop(key, None)


def _parse_only(parsed: StageArguments) -> int:
    kept, sys.argv = sys.argv, [sys.argv[0], parsed.stage, *parsed.argv]
    try:
        SeptetCLI(parsed, parse_only=True)
    finally:
        sys.argv = kept
    return 0


def _run(parsed: StageArguments) -> int:
    """Parse, instantiate, run and record."""
    try:
        cli = SeptetCLI(parsed)
    except (ValueError, FileNotFoundError, FileExistsError, ImportError, MisconfigurationException) as error:
        if isinstance(error, UsageError) or os.environ.get("SEPTET_TRACEBACK") == "1":
            raise
        raise UsageError(_sentence(error)) from error
    lock = _lock(cli.run) if parsed.stage == "fit" and not cli.is_child and not cli.fast else None
    try:
        return _execute(cli)
    finally:
        if lock is not None:
            os.close(lock)


def _execute(cli: SeptetCLI) -> int:
    record = cli.record
    try:
        cli.run_subcommand()
    except Preempted as stop:
        record.write(cli.trainer, "preempted")
        print(f"septet: {stop}; go on with `septet {cli.stage} --run {cli.run}`", file=sys.stderr)
        return PREEMPTED
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not cli.trainer.interrupted:
            raise
        record.write(cli.trainer, "interrupted")
        print(f"septet: interrupted; resume with `septet {cli.stage} --run {cli.run}`", file=sys.stderr)
        return 130
    except Exception as error:
        wrong_input = isinstance(error, ValueError | FileNotFoundError | ImportError | MisconfigurationException)
        if not record.began and wrong_input and os.environ.get("SEPTET_TRACEBACK") != "1":
            cli.discard_run()
            raise UsageError(_sentence(error)) from error
        record.write(cli.trainer, "failed")
        lost = "by peer" in str(error) and cli.trainer.world_size > 1
        if not lost or os.environ.get("SEPTET_TRACEBACK") == "1":
            traceback.print_exc()
        reason = (
            "another process of this run died (its own last lines, if any, stand above)" if lost else _sentence(error)
        )
        print(f"septet: {cli.stage} failed: {reason}", file=sys.stderr)
        return 1
    record.write(cli.trainer, "finished")
    _leave_together()
    if not cli.fast and not cli.is_child:
        print(f"run: {cli.run}", flush=True)
    return 0


def _leave_together() -> None:
    """Wait for all processes and close their group: one that leaves early takes gloo's threads down with an abort."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _sentence(error: BaseException) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and error.filename and str(error.filename) not in text:
        text = f"{text}: {error.filename}"
    if "Does not validate against any of the Union" in text:
        text = tidy_message(text)
    if text.startswith("No supported gpu backend"):
        text = "no usable GPU on this machine: --trainer.accelerator cpu, or see `septet doctor`"
    return text or type(error).__name__


def _lock(run: Path) -> int | None:
    """Hold the run directory while training; the second writer stops."""
    handle = os.open(run / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(f"another process is training in {run}; wait for it or start a new run") from error
    except OSError:  # a file system without locks
        return handle
    return handle

"""The batch script of a run: sorted flags, no timestamps, so that the same request gives the same bytes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2

from septet.launch.errors import UsageError
from septet.launch.slurm.resources import Cluster, Resources


def render(
    command: Sequence[str],
    cluster: Cluster,
    resources: Resources,
    run_dir: Path,
    *,
    workdir: Path | None = None,
    commit: str = "",
    array: Path | None = None,
    array_size: int = 0,
) -> str:
    """The script's text.

    Args:
        command: ``septet fit -c ...`` as words; device and node numbers are added where they are missing.
        cluster: partition, flags, set-up lines, container.
        resources: nodes, GPUs, time, requeue.
        run_dir: ``runs/<slug>/<name>/<run_id>``; script and logs lie in its ``slurm`` folder.
        workdir: where the command runs; default: three levels above ``run_dir``'s root of runs.
        commit: of the code, for the header.
        array: file with one line of further arguments per task of a job array.
        array_size: number of its lines.

    Raises:
        ValueError: if the command's devices or nodes contradict the resources.
    """
    words = with_devices(command, resources)
    run = Path(run_dir)
    logs = run / "slurm"
    environment = [
        ("SEPTET_LAUNCHER", "slurm"),
        ("SEPTET_MAX_RESTARTS", str(resources.max_restarts)),
        ("SEPTET_REQUEUE", "1" if resources.requeue else "0"),
        ("SEPTET_REQUEUE_SIGNAL", f"SIG{resources.signal}"),
        ("SEPTET_RUNS", shlex.quote(str(run.parents[2]))),
        ("SEPTET_RUN_ID", shlex.quote(run.name)),
    ]
    many = resources.nodes * resources.tasks_per_node > 1
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined).from_string(
        (files("septet") / "launch" / "slurm" / "job.sh.j2").read_text()
    )
    return template.render(
        flags=_flags(cluster, resources, run, many=many, array_size=array_size),
        command_line=shlex.join(words),
        commit=commit or "unknown",
        workdir=shlex.quote(str(workdir or run.parents[3])),
        environment=environment,
        setup=cluster.setup,
        array=shlex.quote(str(array)) if array else "",
        logs=shlex.quote(str(logs)),
        nodes=resources.nodes,
        launcher=_launcher(cluster, many=many),
        signal=resources.signal,
    )


def with_devices(command: Sequence[str], resources: Resources) -> list[str]:
    """The command with ``--trainer.devices`` and ``--trainer.num_nodes`` as the resources say.

    Raises:
        ValueError: if the command says otherwise.
    """
    words = list(command)
    if words[1:3] == ["-m", "wandb"]:  # an agent; its sweep names the command
        return words
    for option, wanted in (("--trainer.devices", resources.tasks_per_node), ("--trainer.num_nodes", resources.nodes)):
        given = option_value(words, option)
        if given is not None and given not in (str(wanted), "auto", "-1"):
            raise UsageError(
                f"{option} {given} contradicts the resources: {resources.nodes} node(s) x "
                f"{resources.tasks_per_node} task(s); change nodes, gpus or tasks, or leave the option out"
            )
        if given is None:
            words.append(f"{option}={wanted}")
    return words


def option_value(words: Sequence[str], option: str) -> str | None:
    """The value of ``--option V`` or ``--option=V``; the last one counts."""
    found = None
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            found = word.split("=", 1)[1]
        elif word == option and index + 1 < len(words):
            found = words[index + 1]
    return found


def _flags(cluster: Cluster, resources: Resources, run: Path, *, many: bool, array_size: int) -> list[str]:
    """SBATCH flags, sorted."""
    flags = {
        "--job-name": f"septet-{run.parent.parent.name}-{run.parent.name}",
        "--nodes": str(resources.nodes),
        "--ntasks-per-node": str(resources.tasks_per_node),
        "--cpus-per-task": str(resources.cpus),
        "--time": resources.time,
        "--output": str(run / "slurm" / ("%A_%a.out" if array_size else "%j.out")),
        "--open-mode": "append",
        "--partition": cluster.partition,
        "--account": cluster.account,
        "--qos": cluster.qos,
        "--constraint": cluster.constraint,
        "--mem": resources.mem,
        "--dependency": resources.dependency,
    }
    if resources.gpus:
        flags[cluster.gpu_flag] = f"gpu:{resources.gpus}" if cluster.gpu_flag == "--gres" else str(resources.gpus)
    if resources.requeue:
        flags["--signal"] = f"{'' if many else 'B:'}{resources.signal}@{resources.lead}"
    if array_size:
        flags["--array"] = f"0-{array_size - 1}"
    lines = [f"{key}={value}" for key, value in flags.items() if value]
    return sorted([*lines, "--requeue" if resources.requeue else "--no-requeue"])


def _launcher(cluster: Cluster, *, many: bool) -> str:
    """What stands before the command: srun for several tasks, the container's own starter."""
    parts = []
    if many or cluster.container == "pyxis":
        parts.append("srun --kill-on-bad-exit=1 ")
    if cluster.container == "pyxis":
        mounts = f"--container-mounts={shlex.quote(','.join(cluster.mounts))} " if cluster.mounts else ""
        parts.append(f"--container-image={shlex.quote(cluster.image)} {mounts}")
    if cluster.container == "apptainer":
        binds = "".join(f"--bind {shlex.quote(m)} " for m in cluster.mounts)
        parts.append(f"apptainer exec --nv {binds}{shlex.quote(cluster.image)} ")
    return "".join(parts)

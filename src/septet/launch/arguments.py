"""What happens to a stage's arguments before LightningCLI reads them: --run, --name, short names, shipped configs."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from septet.launch.errors import UsageError, did_you_mean
from septet.launch.methods import METHODS
from septet.launch.runs import find_run

_SPECIAL_WEIGHTS = ("best", "last", "none")


@dataclass
class StageArguments:
    """A stage's command line, taken apart.

    Attributes:
        stage: fit, validate, test or predict.
        argv: what goes on to LightningCLI.
        name: of the run; None until known.
        run: directory of an existing run to work in.
        weights: ``--ckpt_path`` as given: best, last, none, a file, or None.
        configs: the ``-c`` files after look-up.
    """

    stage: str
    argv: list[str] = field(default_factory=list)
    name: str | None = None
    run: Path | None = None
    weights: str | None = None
    configs: list[str] = field(default_factory=list)

    @property
    def run_name(self) -> str:
        """``--name``, else the run's own, else the first configuration's name, else ``default``."""
        if self.name:
            return self.name
        if self.run is not None:
            return self.run.parent.name
        return _config_name(Path(self.configs[0])) if self.configs else "default"


def _config_name(path: Path) -> str:
    """The stem; a configuration in a sub-folder of its method carries the folder: ``paper/uci.yaml`` is paper-uci."""
    parts = path.with_suffix("").parts
    if "configs" in parts:
        below = parts[len(parts) - parts[::-1].index("configs") :]
        return "-".join(below[1:]) or path.stem
    return path.stem


def parse_stage_arguments(stage: str, arguments: list[str]) -> StageArguments:
    """Take ``--run``, ``--name`` and ``--ckpt_path`` out, resolve configurations and short class names.

    Raises:
        UsageError: for an unknown run, configuration or class, or an option without its value.
    """
    parsed = StageArguments(stage=stage)
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        option, has_value, value = word.partition("=")
        if option in (
            "--run",
            "--name",
            "--ckpt_path",
            "-c",
            "--config",
            "--model",
            "--data",
            "--model.help",
            "--data.help",
        ):
            if not has_value:
                if not queue:
                    raise UsageError(f"{option} needs a value")
                value = queue.pop(0)
            _take(parsed, option, value)
        else:
            parsed.argv.append(word)
    if parsed.run is not None:
        parsed.argv = ["--config", str(_run_config(parsed.run, stage)), *parsed.argv]
    return parsed


def _take(parsed: StageArguments, option: str, value: str) -> None:
    """Handle one of our own options."""
    if option == "--run":
        parsed.run = find_run(value, weights=parsed.stage != "fit")
    elif option == "--name":
        parsed.name = value
    elif option == "--ckpt_path":
        if value not in _SPECIAL_WEIGHTS and not Path(value).exists():
            raise UsageError(
                f"--ckpt_path {value!r} is no file{did_you_mean(value, _SPECIAL_WEIGHTS)} (best, last, none or a file)"
            )
        parsed.weights = value
    elif option in ("-c", "--config"):
        path = find_config(value)
        parsed.configs.append(path)
        parsed.argv += ["--config", path]
    else:
        parsed.argv += [f"{option}={class_path(value, option.lstrip('-').removesuffix('.help'))}"]


def find_config(value: str) -> str:
    """A configuration file here, else the one shipped in the package.

    Raises:
        UsageError: if there is neither; the nearest shipped name is suggested.
    """
    if Path(value).is_file():
        return _readable(value)
    relative = value.removeprefix("./").removeprefix("configs/")
    folder = files("septet") / "configs"
    shipped = folder / relative
    if value.startswith("configs/") and shipped.is_file():
        return os.fspath(shipped)  # type: ignore[call-overload, no-any-return]
    root = Path(os.fspath(folder))  # type: ignore[call-overload]
    known = [f"configs/{p.relative_to(root)}" for p in root.rglob("*.yaml")]
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5) if value.startswith("configs/") else []
    hint = f"; did you mean {near[0]!r}?" if near else "; `septet methods show SLUG` lists the shipped ones"
    raise UsageError(f"no configuration file {value!r}{hint}")


def _readable(path: str) -> str:
    """The path, if the file holds a YAML mapping.

    Raises:
        UsageError: naming the file and the line.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path} must hold a mapping (seed_everything, trainer, model, data), found {content!r}")
    return path


def class_path(value: str, what: str) -> str:
    """Full class path for a slug or a bare class name of the table; full paths and files pass through."""
    if "." in value or "/" in value or value.startswith("{"):
        return value
    attribute = "module" if what == "model" else "datamodule"
    table = {row.slug: getattr(row, attribute) for row in METHODS.values()}
    table |= {path.rsplit(".", 1)[1]: path for path in table.values()}
    if value not in table:
        raise UsageError(f"no {what} {value!r}{did_you_mean(value, table)}")
    return str(table[value])


def _run_config(run: Path, stage: str) -> Path:
    """The run's configuration without the keys of its own stage, as a file the parser can read."""
    import yaml

    source = run / "config.yaml"
    try:
        content = yaml.safe_load(source.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"the configuration of run {run} cannot be read: {error}") from error
    kept = {k: content[k] for k in ("seed_everything", "trainer", "model", "data") if k in content}
    if "seed_everything" not in kept or "model" not in kept:
        raise UsageError(f"{source} holds no model; found keys {sorted(content)}")
    target = run / f".resume-{stage}.yaml"
    target.write_text(yaml.safe_dump(kept, sort_keys=False))
    return target

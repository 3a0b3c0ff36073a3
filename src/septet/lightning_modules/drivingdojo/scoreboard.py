"""What a test of the world model measures: picture, motion, controls and drift, over all processes."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from septet.lightning_modules.drivingdojo import drift, media
from septet.lightning_modules.drivingdojo.bonnet import bonnet_mask, rows_below
from septet.lightning_modules.drivingdojo.estimators import build_estimator
from septet.lightning_modules.drivingdojo.evaluation import COMMANDS, arc, clip_losses, clip_seeds, save_video
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.pool import EstimatorPool
from septet.lightning_modules.drivingdojo.video_metrics import VideoFrechetDistance, build_extractors, random_conv3d

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel

CASES = ("model", "floor", "static", "shuffled", "shuffled_own")
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)


class ClipTable(Metric):
    """Rows of numbers per clip, gathered over processes: ``compute`` gives all of them ``(N, ..)``."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Add rows ``(B, ..)``."""
        self.rows.append(rows.detach())

    def compute(self) -> Tensor:
        """All rows."""
        return self.rows if isinstance(self.rows, Tensor) else torch.cat(self.rows)


class OtherCommands:
    """Finds every clip the command of another: its neighbour's in the batch.

    A batch of one takes that of the clip before it, the first clip of all that of the one after it.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Any] | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def left_out(self) -> int:
        """Clips that still wait for another command."""
        return int(self._waiting is not None)

    def pair(self, batch: dict[str, Any]) -> list[tuple[dict[str, Any], Tensor, Tensor]]:
        """Batches with other actions ``(B, n, 2)`` and yaw ``(B, n)``: this one, and one that waited."""
        actions, yaw, found = batch["actions"], batch["yaw"], []
        if self._waiting is not None:
            found.append((self._waiting, actions[:1], yaw[:1]))
            self._waiting = None
        if len(actions) > 1:
            found.append((batch, actions.roll(1, 0), yaw.roll(1, 0)))
        elif self._last is not None:
            found.append((batch, *self._last))
        else:
            self._waiting = batch
        self._last = actions[-1:], yaw[-1:]
        return found


def all_processes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all processes, in order of rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def strict_json(value: Any) -> Any:
    """The same with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {k: strict_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [strict_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TestTools:
    """Extractors and estimator of a test, opened before any clip is dreamed.

    Args:
        model: whose settings name them.

    Raises:
        FileNotFoundError: for a file that is not there; ValueError for one of another kind.
    """

    __test__ = False

    def __init__(self, model: WorldModel) -> None:
        self.extractors = build_extractors(model.extractors)
        self.bonnet, self.metric_scale = model.bonnet, False
        self.reasons: dict[str, str] = {}
        self.pool: EstimatorPool | None = None
        if model.aif != "none":
            estimator, self.metric_scale = build_estimator(model.aif, model.aif_options)
            self.pool = EstimatorPool(estimator, model.aif_workers, model.aif_cache_dir)

    def masks(self, frames: Tensor) -> list[Tensor | None]:
        """Pixels to ignore in every clip of ``(B, T, 3, H, W)`` real frames: dreams of a clip share its bonnet."""
        if self.bonnet is None:
            return [None] * len(frames)
        if self.bonnet == "find":
            return [bonnet_mask(clip.cpu()) for clip in frames]
        return [rows_below(int(self.bonnet), *frames.shape[-2:])] * len(frames)

    def close(self) -> None:
        """End the estimator's processes."""
        if self.pool is not None:
            self.pool.close()


class TestState:
    """Metrics and material for pictures, gathered over the batches of a test.

    Args:
        model: the model under test.
        tools: its extractors and estimator.
    """

    __test__ = False

    def __init__(self, model: WorldModel, tools: TestTools) -> None:
        self.model, self.tools = model, tools
        self.kept: tuple[dict[str, Any], Tensor] | None = None
        self.tables: dict[str, ClipTable] = {}
        self.frechet = [VideoFrechetDistance(e).to(model.device) for e in tools.extractors]
        self.by_block: list[VideoFrechetDistance] = []
        self.blocks: list[tuple[int, int]] = []
        self.aif: dict[str, ActionInstructionFollowing] = {}
        self.others = OtherCommands()
        if tools.pool is not None:
            given = (None, model.aif_protocol, tools.metric_scale)
            self.aif = {name: ActionInstructionFollowing(*given).to(model.device) for name in CASES}

    def _add(self, name: str, rows: Tensor) -> None:
        if name not in self.tables:
            self.tables[name] = ClipTable().to(self.model.device)
        self.tables[name].update(rows.to(self.model.device))

    def step(self, batch: dict[str, Any]) -> None:
        """Dream a batch and add it to every metric."""
        model, frames, actions = self.model, batch["frames"], batch["actions"]
        first, seeds, context = frames[:, : model.context], clip_seeds(batch["clip_id"]), model.context
        video = model.generate(first, actions, yaw=batch["yaw"], seed=seeds)
        self._add("loss", clip_losses(model, batch))
        self._add("error", drift.squared_error(video, frames)[:, context:])
        self._add("copy", drift.squared_error(frames[:, :1].expand_as(frames), frames)[:, context:])
        colour = drift.colour_drift(video, frames[:, 0]) - drift.colour_drift(frames, frames[:, 0])
        self._add("colour", colour.abs()[:, context:])
        self._add("ssim", _ssim(video[:, context:], frames[:, context:]))
        seams = drift.chunk_seams(context, model.frames, frames.shape[1], self._reach)
        self._add("seam", torch.tensor([drift.seam_jump(video, seams)]).expand(len(frames)))
        for metric in self.frechet:
            metric.update(frames, real=True)
            metric.update(video, real=False)
        self._by_block(frames, video)
        if self.kept is None:
            self.kept = ({k: v[:8] for k, v in batch.items()}, video[:8])
        if self.aif:
            self._follow(batch, video, first, seeds)

    @property
    def _reach(self) -> int:
        return int(getattr(self.model.net, "reach", 1))

    def _by_block(self, frames: Tensor, video: Tensor) -> None:
        """Frechet distance of every block of new frames: how a rollout drifts."""
        model = self.model
        if not self.blocks:
            given = (model.context, model.frames, frames.shape[1], self._reach, model.condition.fps)
            self.blocks = drift.blocks(*given)
            self.by_block = [VideoFrechetDistance(random_conv3d()).to(model.device) for _ in self.blocks]
        for (start, stop), metric in zip(self.blocks, self.by_block, strict=True):
            metric.update(frames[:, start:stop], real=True)
            metric.update(video[:, start:stop], real=False)

    def _follow(self, batch: dict[str, Any], video: Tensor, first: Tensor, seeds: list[int]) -> None:
        """Action following of the dream, the real video and the controls; all clips go to the pool together."""
        frames = batch["frames"]
        given = {**batch, "first": first, "seeds": seeds, "masks": self.tools.masks(frames)}
        still = frames[:, :1].expand_as(frames)
        jobs = [("model", given, video), ("floor", given, frames), ("static", given, still)]
        for clips, actions, yaw in self.others.pair(given):
            wrong = self.model.generate(clips["first"], actions, yaw=yaw, seed=clips["seeds"])
            jobs.append(("shuffled", clips | {"driven": actions}, wrong))
        self._score(jobs)
        for name in ("model", "floor"):
            errors = [row["errors"] for row in self.aif[name].details[-len(frames) :]]
            self._add(f"{name}_errors", torch.tensor(errors, dtype=torch.float64))

    def _score(self, jobs: list[tuple[str, dict[str, Any], Tensor]]) -> None:
        """Recover the paths of (case, batch, videos) and compare them with the commands."""
        clips = [clip.cpu() for _, _, videos in jobs for clip in videos]
        cameras, masks = ([one for _, given, _ in jobs for one in given[key]] for key in ("camera", "masks"))
        assert self.tools.pool is not None
        found = iter(self.tools.pool.estimate_many(clips, cameras, masks))
        for name, given, videos in jobs:
            paths, ids = list(itertools.islice(found, len(videos))), given["clip_id"]
            self.aif[name].update(actions=given["actions"], trajectories=paths, clip_ids=ids)
            if name == "shuffled":
                self.aif["shuffled_own"].update(actions=given["driven"], trajectories=paths, clip_ids=ids)

    def _clip_rows(self) -> list[dict[str, Any]]:
        """One row per case and clip of all processes, and why clips were not scored, kept for the record."""
        if not self.aif:
            return []
        if self.others.left_out:
            rank_zero_warn(f"shuffled control: {self.others.left_out} clip left out, no other command to drive it by")
        for name in ("shuffled", "shuffled_own"):
            self.aif[name].update(actions=[], trajectories=[])  # a process without such a clip gathers like the others
        mine = [{"case": name} | row for name, metric in self.aif.items() for row in metric.per_clip()]
        rows = list({(row["case"], row["clip"]): row for row in all_processes(mine)}.values())
        for name in self.aif:
            counts = Counter(row["reason"] for row in rows if row["case"] == name and row["reason"])
            self.tools.reasons[name] = ", ".join(f"{reason} {n}" for reason, n in counts.most_common())
        if why := self.tools.reasons["floor"]:
            rank_zero_info(f"aif {self.model.aif!r} fails on real video already, the floor was not scored for: {why}")
        return rows

    def finish(self) -> None:
        """Log everything once and draw the pictures."""
        rows = {name: table.compute() for name, table in self.tables.items()}
        clips = self._clip_rows()
        quality, copy = drift.decibel(rows["error"].mean(0)), drift.decibel(rows["copy"].mean(0))
        values = {
            "loss": float(rows["loss"].mean()), "psnr": float(drift.decibel(rows["error"].mean())),
            "psnr_first": float(quality[0]), "psnr_copy_first": float(copy[0]), "psnr_last": float(quality[-1]),
            "colour_drift": float(rows["colour"][:, -1].mean()), "ssim": float(rows["ssim"].mean()),
            "seam_jump": float(rows["seam"].mean()),
        }  # fmt: skip
        values |= {metric.key: float(metric.compute()) for metric in self.frechet}
        drifts = self._drift(rows)
        values |= {f"drift_{k}_{n}": v for k, column in drifts.items() for n, v in enumerate(column, 1)}
        controls = {n: {k: float(v) for k, v in m.compute().items()} for n, m in self.aif.items()}
        for name, row in controls.items():
            keys = row if name == "model" else ("ex", "ey", "coverage_clips")
            values |= {f"aif_{k}" if name == "model" else f"{name}_{k}": row[k] for k in keys}
        self.model.log_dict({f"test/{k}": v for k, v in values.items() if not math.isnan(v)}, on_epoch=True)
        self._draw(rows, drifts, controls, clips)

    def _drift(self, rows: dict[str, Tensor]) -> dict[str, list[float]]:
        """Measures of every block of new frames; a block is a chunk of a whole-clip net, else a second."""
        context = self.model.context
        found: dict[str, list[float]] = {"psnr": [], "colour": [], "frd_random": []}
        for (start, stop), frechet in zip(self.blocks, self.by_block, strict=True):
            part = slice(start - context, stop - context)
            found["psnr"].append(float(drift.decibel(rows["error"][:, part].mean())))
            found["colour"].append(float(rows["colour"][:, part].mean()))
            found["frd_random"].append(float(frechet.compute()))
        for name, prefix in (("model_errors", ""), ("floor_errors", "floor_")) if self.aif else ():
            for axis, letter in enumerate("xy"):  # step n leads to frame n + 1
                steps = [rows[name][:, start - 1 : stop - 1, axis] for start, stop in self.blocks]
                found[f"{prefix}e{letter}"] = [float(errors.nanmean()) for errors in steps]
        return found

    def _draw(
        self, rows: dict[str, Tensor], drifts: dict[str, list[float]], controls: dict[str, dict[str, float]],
        clips: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        model = self.model
        assert self.kept is not None
        batch, video = self.kept
        details = self.aif["model"].details[:3] if self.aif else []
        strips = [c for pair in zip(batch["frames"][:3], video[:3], strict=True) for c in pair]
        model.save_picture("film_strip_real_generated", media.film_strip(strips, labels=["real", "generated"] * 3))
        model.save_picture(
            "real_generated_paths", media.story_figure(batch["frames"], video, batch["actions"], details)
        )
        quality, copy = (drift.decibel(rows[k].mean(0)).tolist() for k in ("error", "copy"))
        curves = {"model": quality, "first frame repeated": copy}
        model.save_picture("psnr_by_step", media.curves_figure(curves, "new frame", "PSNR (dB)"))
        colour = {"colour drift against real": rows["colour"].mean(0).tolist()}
        model.save_picture("colour_drift", media.curves_figure(colour, "new frame", "grey levels"))
        model.save_picture("drift_by_block", media.drift_figure(drifts, self.blocks))
        by_sigma = [float(clip_losses(model, batch, level).mean()) for level in LEVELS]
        model.save_picture("loss_by_sigma", media.curves_figure({"loss": by_sigma}, "sigma", "weighted loss", LEVELS))
        self._draw_commands(batch["frames"][0, : model.context])
        if controls:
            model.save_picture("aif_controls", media.controls_figure(controls, self.tools.reasons))
            model.save_picture("aif_paths", media.path_figure(self.aif["model"].details[:8]))
            model.save_media("aif_clips.json", json.dumps(strict_json(clips), indent=1, allow_nan=False))
        save_video(model, "dream", torch.cat([batch["frames"][0], video[0]], -1), batch.get("fps", [None])[0])

    def _draw_commands(self, first: Tensor) -> None:
        """Left, straight, right and stop from one start."""
        model = self.model
        actions = torch.stack([arc(c, 8) for c in COMMANDS.values()]).to(first.device)
        start = first.expand(len(COMMANDS), *first.shape)
        video = model.generate(start, actions, seed=[0] * len(COMMANDS))
        model.save_picture("commands_left_straight_right_stop", media.film_strip(list(video), labels=list(COMMANDS)))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of every uint8 clip ``(B,)``."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    given = a.flatten(0, 1).float(), b.flatten(0, 1).float()
    value = structural_similarity_index_measure(*given, data_range=255.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.view(len(a), -1).mean(1)

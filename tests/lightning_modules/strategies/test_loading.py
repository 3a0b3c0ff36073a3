"""Hugging Face folders read in slices: the right values, and no process reads or holds what it does not need."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.support.processes import run_processes
from tests.support.runs import newest, septet, septet_process

from septet.kernels.placement import HeadPlan, contiguous_plan, solve
from septet.lightning_modules.cake.pretrained import load_pretrained
from septet.lightning_modules.strategies import export_safetensors, parallelise
from septet.lightning_modules.strategies.checkpoints import SlicedCheckpoint, can_slice, contiguous_runs
from septet.lightning_modules.strategies.loading import load_cut, whole_weights_reason

pytest.importorskip("transformers")
LAYERS, KV_HEADS, HIDDEN, INNER, VOCAB, HEAD = 3, 4, 32, 50, 98, 4
LOADS = [[9.0, 1.0, 1.0, 1.0], [1.0, 5.0, 5.0, 1.0], [1.0, 1.0, 1.0, 12.0]]


def _save(folder, *, shards="20KB", tied=False):
    """A random Llama as ``save_pretrained`` leaves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=8,
        num_key_value_heads=KV_HEADS, head_dim=HEAD, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shards)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = _save(tmp_path_factory.mktemp("model") / "sharded")
    assert len(list(folder.glob("*.safetensors"))) > 3, "several shards with an index"
    return folder


def _plan(kind, world):
    if kind == "contiguous":
        return contiguous_plan(LAYERS, KV_HEADS, world, 3)
    return solve(LOADS, world, batch_size=3, copies=2)


def _load(rank: int, folder: str, plan: HeadPlan, dtype: torch.dtype) -> dict[str, object]:
    model, report = load_cut(folder, lambda _: plan, None, torch.device("cpu"), dtype)
    whole = parallelise(load_pretrained(folder, dtype), plan)
    assert [n for n, _ in whole.named_parameters()] == [n for n, _ in model.named_parameters()]
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    assert model.inverse_frequency.dtype == torch.float32
    torch.testing.assert_close(model.inverse_frequency, whole.inverse_frequency, rtol=0, atol=0)
    heads = sum(r.device == rank for layer in plan.layers for head in layer for r in head)
    return {
        "same": same, "heads": heads, "read": report.read_bytes, "file": report.file_bytes,
        "held": report.weight_bytes, "peak": report.peak_bytes, "largest": report.largest_read,
        "line": report.line(rank),
    }  # fmt: skip


def _misfits(folder: str) -> list[str]:
    found = []
    for plan in (contiguous_plan(2, KV_HEADS, 2, 3), contiguous_plan(LAYERS, KV_HEADS, 4, 3)):
        try:
            load_cut(folder, lambda _, plan=plan: plan, None, torch.device("cpu"))
        except ValueError as error:
            found.append(str(error))
    return found


def _everything(rank: int, world: int, sharded: str, tied: str) -> dict[str, object]:
    return {
        "contiguous": _load(rank, sharded, _plan("contiguous", world), torch.float32),
        "copies": _load(rank, sharded, _plan("copies", world), torch.float32),
        "tied": _load(rank, tied, _plan("contiguous", world), torch.bfloat16),
        "misfits": _misfits(sharded),
    }


@pytest.fixture(scope="module")
def two(sharded, tmp_path_factory):
    """Results of two processes, by rank."""
    tied = _save(tmp_path_factory.mktemp("model") / "tied", shards="5GB", tied=True)
    return run_processes(2, _everything, str(sharded), str(tied))


@pytest.mark.parametrize("kind", ["contiguous", "copies"])
def test_slices_equal_the_cut_whole_model_and_nothing_else_is_read(two, kind):
    ranks = [found[kind] for found in two]
    replicated = 4 * (2 * VOCAB * HIDDEN + (2 * LAYERS + 1) * HIDDEN)
    group = 4 * (2 * 2 + 2) * HEAD * HIDDEN
    for rank, found in enumerate(ranks):
        assert found["same"], "bit for bit what the whole model gives after the cut"
        expected = replicated + found["heads"] * group + 4 * LAYERS * 3 * HIDDEN * INNER // 2
        assert found["read"] == found["held"] == expected, f"rank {rank} materialises its part and no byte more"
        assert found["peak"] == found["held"] + found["largest"] < found["file"]
        assert found["largest"] <= 4 * VOCAB * HIDDEN, "the largest read is a replicated embedding"
        assert f"process {rank} read" in found["line"]
    copies = sum(_plan(kind, 2).copies)
    assert sum(f["held"] for f in ranks) == ranks[0]["file"] + replicated + copies * group


def test_tied_embeddings_and_another_dtype(two):
    for found in two:
        assert found["tied"]["same"]
        assert found["tied"]["held"] * 2 == found["tied"]["read"], "files in float32, weights in bfloat16"


def test_a_plan_of_another_model_is_named_before_weights_are_read(two):
    found = two[0]["misfits"]
    assert "2 layers x 4 KV heads, the model 3 x 4" in found[0]
    assert "4 devices" in found[1]


def test_bin_files_are_mapped_and_sliced(tmp_path):
    from safetensors.torch import load_file

    folder = _save(tmp_path / "model", shards="5GB")
    other = tmp_path / "bin"
    other.mkdir()
    shutil.copy(folder / "config.json", other)
    torch.save(load_file(folder / "model.safetensors"), other / "pytorch_model.bin")
    assert can_slice(other)
    first, second = SlicedCheckpoint(folder), SlicedCheckpoint(other)
    assert sorted(first) == sorted(second)
    assert first.total_bytes() == second.total_bytes()
    name, rows = "model.layers.1.self_attn.q_proj.weight", torch.tensor([0, 1, 5, 6, 7, 31])
    targets = [torch.empty(6, HIDDEN), torch.empty(6, HIDDEN)]
    for files, target in zip((first, second), targets, strict=True):
        files.copy_slices(target, name, rows, None)
        assert files.bytes_read == 4 * 6 * HIDDEN
        assert files.largest_read == 4 * 3 * HIDDEN
    torch.testing.assert_close(*targets, rtol=0, atol=0)
    torch.testing.assert_close(targets[0], first[name][rows], rtol=0, atol=0)


def test_columns_are_read_without_their_rows_neighbours(sharded):
    files, name = SlicedCheckpoint(sharded), "model.layers.0.mlp.down_proj.weight"
    columns, target = torch.arange(25, 50), torch.empty(HIDDEN, 25)
    files.copy_slices(target, name, None, columns)
    assert files.bytes_read == 4 * HIDDEN * 25
    torch.testing.assert_close(target, files[name][:, 25:], rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "columns"), [(None, None), ([3, 4, 5, 30], None), (None, [0, 7, 8, 9])])
def test_large_tensors_come_in_small_pieces(sharded, monkeypatch, rows, columns):
    monkeypatch.setattr("septet.lightning_modules.strategies.checkpoints.SLICE_BYTES", 300)
    files, name = SlicedCheckpoint(sharded), "model.layers.2.self_attn.o_proj.weight"
    taken = [None if wanted is None else torch.tensor(wanted) for wanted in (rows, columns)]
    expected = files[name]
    expected = expected if rows is None else expected[taken[0]]
    expected = expected if columns is None else expected[:, taken[1]]
    files.largest_read = files.bytes_read = 0
    target = torch.empty_like(expected)
    files.copy_slices(target, name, *taken)
    assert torch.equal(target, expected)
    assert files.bytes_read == 4 * expected.numel()
    assert files.largest_read <= 300


def test_runs_of_indices():
    assert contiguous_runs(torch.tensor([4, 5, 6, 9])) == [(4, 7), (9, 10)]
    assert contiguous_runs(torch.tensor([], dtype=torch.long)) == []
    assert contiguous_runs(torch.arange(3)) == [(0, 3)]


def test_files_that_are_wrong_are_named(sharded, tmp_path):
    with pytest.raises(ValueError, match=r"no \.safetensors and no pytorch_model"):
        SlicedCheckpoint(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(sharded, folder)
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        list(map(SlicedCheckpoint(folder).shape, SlicedCheckpoint(folder)))
    shard.unlink()
    with pytest.raises(ValueError, match=f"lacks {shard.name} of its index"):
        SlicedCheckpoint(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match="is no index of weights"):
        SlicedCheckpoint(folder)


def test_a_bin_file_that_cannot_be_mapped_is_named(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="cannot be mapped; save the model anew as safetensors"):
        SlicedCheckpoint(tmp_path)


def test_gguf_is_said_to_be_loaded_whole(sharded, tmp_path):
    assert whole_weights_reason(str(sharded)) is None
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    reason = whole_weights_reason(str(tmp_path))
    assert reason is not None
    assert "model.gguf is a GGUF file, which cannot be read in slices" in reason
    with pytest.raises(ValueError, match="every process loads the whole model"):
        load_cut(str(tmp_path), lambda _: contiguous_plan(1, 2, 1), None, torch.device("cpu"))


def test_any_model_is_exported_to_slices(sharded, tmp_path):
    folder = export_safetensors(str(sharded), tmp_path / "new", shard_bytes=15_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    old, new = SlicedCheckpoint(sharded), SlicedCheckpoint(folder)
    assert sorted(old) == sorted(new)
    assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(ValueError, match=r"holds \.safetensors files already"):
        export_safetensors(str(sharded), folder)


def test_through_the_strategy_from_yaml(sharded, runs):
    words = ["-c", "configs/fairkv/smoke_2proc.yaml", "--model.init_args.config=null"]
    words += [f"--model.init_args.pretrained={sharded}", "--model.init_args.policies=[full,{name: adakv,window: 8}]"]
    profile = json.dumps(LOADS)
    two = septet_process(
        "test", *words, f"--trainer.strategy.init_args.profile={profile}", env={"SEPTET_RUNS": str(runs)}
    )
    assert two.returncode == 0, two.stderr
    said = two.stdout + two.stderr
    assert "fairkv: process 0 read" in said
    assert "every process loads the whole model" not in said
    assert septet("test", *words, "--trainer.strategy=auto", "--trainer.devices=1", "--name", "one") == 0
    ours, single = (
        json.loads((newest(runs, slug, name) / "record.json").read_text())["metrics"]
        for slug, name in (("fairkv", "smoke_2proc"), ("cake", "one"))
    )
    for key in ("test/full/accuracy", "test/adakv-24/accuracy"):
        assert ours[key] == pytest.approx(single[key], abs=1e-6)
    media = newest(runs, "fairkv", "smoke_2proc") / "media"
    loads = json.loads((media / "placement.json").read_text())["loading"]
    assert [report["read_bytes"] < report["file_bytes"] for report in loads] == [True, True]

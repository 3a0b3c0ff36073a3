"""What does not fit is said before any work; what is run is what was asked for."""

import warnings

import pytest
from lightning.pytorch import Trainer

from septet.datamodules.long_context import LongContextText
from septet.kernels.policies import CAKE, DuoAttention, HeadKV, SnapKV, build_policy, sized_policy
from septet.kernels.policies.cake import TAUS
from septet.lightning_modules.cake import DecoderConfig, LongContextModule
from septet.lightning_modules.cake.checks import check_checkpoint, check_vocabulary
from septet.lightning_modules.cake.evaluation import at_capacities, labels_of, smallest

SHAPE = DecoderConfig(98, 32, 64, 2, 4, 2)
BYTES = DecoderConfig(258, 32, 64, 2, 4, 2)


def trainer(path, **options):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=path, logger=False, **quiet, **options)


def needle(**options):
    return LongContextText("needle", context_length=400, num_samples=1, **{"max_new_tokens": 2, **options})


def test_published_temperatures_follow_each_capacity():
    spec = {"name": "cake", "model": "llama3.1-8b"}
    for written in (spec, {**spec, "capacity": 128}):
        found = at_capacities([written], [128, 1024])
        assert [(p.capacity, p.tau1, p.tau2) for p in found] == [
            (size, *TAUS["llama3.1-8b"][size]) for size in (128, 1024)
        ]
    assert build_policy(spec) == CAKE.for_model("llama3.1-8b", 1024)
    assert at_capacities([{"name": "snapkv", "window": 1500}], [2000]) == [SnapKV(2000, 1500)]


def test_tables_from_scores_follow_each_capacity():
    scores = [[1.0, 2.0, 3.0, 4.0]] * 2
    spec = {"name": "headkv", "scores": scores, "n_kv_heads": 2}
    found = [sized_policy(spec, size) for size in (32, 64)]
    assert found == [HeadKV.from_scores(scores, 2, size) for size in (32, 64)]
    assert found[0].table != found[1].table
    fixed = {"name": "headkv", "table": [[3, 4]] * 2}
    assert sized_policy(fixed, 64) == HeadKV([[3, 4]] * 2)


def test_repeated_policies_warn_and_run_once():
    with pytest.warns(UserWarning, match="snapkv-64 is listed twice with the same options; it is run once"):
        assert len(at_capacities([{"name": "snapkv"}, {"name": "snapkv"}], [64])) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(at_capacities(["full", "full", {"name": "snapkv"}], [64, 64, 128])) == 3


def test_labels_name_what_differs():
    policies = at_capacities(["full", {"name": "cake"}, {"name": "cake", "tau1": 1.6}, {"name": "snapkv"}], [64, 128])
    assert labels_of(policies) == [
        "full", "cake-64-tau1=1.0", "cake-128-tau1=1.0", "cake-64-tau1=1.6", "cake-128-tau1=1.6", "snapkv-64",
        "snapkv-128",
    ]  # fmt: skip
    assert list(smallest(policies)) == ["cake-64-tau1=1.0", "cake-64-tau1=1.6", "snapkv-64"]
    assert labels_of([DuoAttention([[1, 0]]), DuoAttention([[0, 1]])]) == ["duoattention-50", "duoattention-50#2"]


def test_capacities_are_named():
    with pytest.raises(ValueError, match="capacities is empty; name at least one"):
        LongContextModule(SHAPE, ["full", {"name": "snapkv"}], capacities=[])


def test_head_tables_of_another_model():
    with pytest.raises(ValueError, match="the head table has 3 layers, the model 2"):
        LongContextModule(SHAPE, [{"name": "duoattention", "gates": [[1, 0]] * 3}])
    with pytest.raises(ValueError, match="the head table has 3 heads, the model 2 KV heads"):
        LongContextModule(SHAPE, [{"name": "headkv", "table": [[1, 0, 1]] * 2}])


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_token_ids_that_the_model_does_not_know(tmp_path, stage):
    module, steps = LongContextModule(SHAPE), []
    module.on_test_start = module.on_predict_start = module.on_fit_start = lambda: steps.append(1)
    runner = trainer(tmp_path, max_epochs=1)
    with pytest.raises(
        ValueError, match=r"token ids up to 257 \(task 'needle', tokenizer 'bytes'\), the model knows 98"
    ):
        getattr(runner, stage)(module, datamodule=needle())
    assert not steps


def test_a_recall_model_does_not_read_text(tmp_path):
    (tmp_path / "mine.txt").write_text("What is two plus two?")
    data = LongContextText("recall", prompts=str(tmp_path / "mine.txt"))
    with pytest.raises(
        ValueError, match=r"token ids up to 257 \(task 'recall', tokenizer 'bytes'\), the model knows 98"
    ):
        trainer(tmp_path).predict(LongContextModule(SHAPE), datamodule=data)


def test_bytes_are_not_a_pretrained_models_tokens():
    with pytest.raises(ValueError, match="tokenizer 'bytes' is not that of 'smollm2'"):
        check_vocabulary(needle(), 49152, "smollm2")
    check_vocabulary(needle(), 49152, None)
    check_vocabulary(needle(), 258, "a/byte/model")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            DecoderConfig(98, 64, 64, 2, 4, 2),
            "decoder 2x32, vocabulary 98, head_dim 8, the config asks for a decoder 2x64, voc",
        ),
        (BYTES, "holds a decoder 2x32, vocabulary 98, the config asks for a decoder 2x32, vocabulary 258; use the"),
        (DecoderConfig(98, 32, 64, 2, 8, 4, head_dim=4), "n_heads 4, n_kv_heads 2, head_dim 8, the config asks for"),
    ],
)
def test_checkpoints_of_another_shape(tmp_path, shape, message):
    module = LongContextModule(SHAPE)
    data = LongContextText("recall", context_length=64, num_samples=1)
    runner = trainer(tmp_path)
    runner.validate(module, datamodule=data, verbose=False)
    runner.save_checkpoint(tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).test(LongContextModule(shape), datamodule=data, ckpt_path=str(tmp_path / "m.ckpt"))
    again = LongContextModule(DecoderConfig(98, 32, 64, 2, 4, 2, rope_theta=20000.0))
    trainer(tmp_path).validate(again, datamodule=data, ckpt_path=str(tmp_path / "m.ckpt"), verbose=False)


def test_checkpoints_of_a_pretrained_model():
    saved = {"hyper_parameters": {"config": None, "pretrained": "smollm2", "policies": ["full"]}}
    with pytest.raises(ValueError, match="holds the pretrained model 'smollm2', the config asks for a decoder 2x32"):
        check_checkpoint(saved, SHAPE, None)
    check_checkpoint(saved, None, "smollm2")
    check_checkpoint({"hyper_parameters": {"width": 3}}, SHAPE, None)


def test_cells_are_computed_again_when_the_question_changes(tmp_path):
    """A finished cell serves only the run that asks for the same."""
    module = LongContextModule(BYTES, [{"name": "snapkv", "window": 4}], capacities=[40])

    def cells():
        return len((tmp_path / "cells.jsonl").read_text().splitlines())

    trainer(tmp_path).test(module, datamodule=needle(), verbose=False)
    trainer(tmp_path).test(module, datamodule=needle(), verbose=False)
    assert cells() == 2
    trainer(tmp_path).test(module, datamodule=needle(max_new_tokens=5), verbose=False)
    assert cells() == 4
    other = needle()
    other.setup("test")
    for name, value in (("answers", ("x",)), ("task", "qasper"), ("all_classes", ("x",)), ("length", 7)):
        before = cells()
        other._rows["test"][0][name] = value
        trainer(tmp_path).test(module, datamodule=other, verbose=False)
        assert cells() == before + 2, name
    slower = LongContextModule(DecoderConfig(258, 32, 64, 2, 4, 2, rope_theta=500.0), module.policies)
    before = cells()
    trainer(tmp_path).test(slower, datamodule=needle(), verbose=False)
    assert cells() == before + 2


def test_given_answers_are_scored(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "one two", "answers": "42"}\n{"prompt": "three"}\n')
    data = needle(prompts=str(tmp_path / "mine.jsonl"))
    module = LongContextModule(BYTES)
    module.configure_model()
    batches = trainer(tmp_path).predict(module, datamodule=data)
    first, second = [row for batch in batches for row in batch]
    assert (first["expected"], first["accuracy"]) == ("42", float("42" in first["answer"]))
    assert "expected" not in second

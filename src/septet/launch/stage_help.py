"""``septet fit --help`` without torch: what people use; ``--help-all`` prints Lightning's 400 lines."""

from __future__ import annotations

_ABOUT = {
    "fit": "Train a method, or go on with a run.",
    "validate": "Evaluate weights on the validation split.",
    "test": "Evaluate weights on the test split.",
    "predict": "Write predictions for your own input.",
}
_CASE = """\
  -c FILE                        configuration, here or in the package; later files go on top
  --run RUN                      {run}
  --name NAME                    of the run (default: the configuration's name)
  --ckpt_path W                  {weights}
  --model SLUG, --data CLASS     another class: a slug, a bare name of ours, or a full class path
"""
_SETTINGS = """\
settings (every key of the YAML, dotted; `septet {stage} -c FILE --print_config` prints them all):
  --model.init_args.KEY=VALUE    of the method         (--model.help CLASS lists them)
  --data.init_args.KEY=VALUE     of the data           (--data.help CLASS)
  --trainer.KEY=VALUE            {trainer}
  --seed_everything N            default 0
"""
_TRAINER = {
    "fit": "max_epochs, max_steps, devices, accelerator, precision, limit_train_batches, fast_dev_run ...",
    "validate": "devices, accelerator, precision, limit_val_batches, fast_dev_run ...",
    "test": "devices, accelerator, precision, limit_test_batches, fast_dev_run ...",
    "predict": "devices, accelerator, precision, limit_predict_batches, fast_dev_run ...",
}


def stage_help(stage: str) -> str:
    """The text of ``septet STAGE --help``."""
    fit = stage == "fit"
    case = _CASE.format(
        run="resume this run: directory, run id or slug/name (its newest)" if fit
        else "evaluate this run's best weights: directory, run id or slug/name (its newest)",
        weights="start from this checkpoint (a file)" if fit else "best, last, none or a file",
    )  # fmt: skip
    example = {"fit": "-c configs/cne_n/smoke.yaml"}.get(stage, "--run cne_n/smoke")
    return (
        f"usage: septet {stage} -c FILE [-c FILE ...] [options]\n\n{_ABOUT[stage]}  Example: septet {stage} {example}\n"
        f"Shipped beside the cases: -c configs/trainer/gpu.yaml, -c configs/logger/wandb.yaml ...\n\n"
        f"{case}\n{_SETTINGS.format(stage=stage, trainer=_TRAINER[stage])}\n"
        f"also: septet methods list | show SLUG (the configurations of a method); septet {stage} --help-all "
        "(every option of Lightning)"
    )

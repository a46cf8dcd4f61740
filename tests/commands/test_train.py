"""Training from the first to the last file it writes."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from softfeat.commands.train import make_extractor, numbers_of_sets, train
from softfeat.data.layouts import DataError
from softfeat.models.extractor import build_extractor, load_extractor
from softfeat.training.loggers import finish_wandb
from softfeat.training.run_config import override, resumed_config
from tests.helpers.commands import call_command, run_module
from tests.helpers.datasets import real_data
from tests.helpers.trainings import TINY, compose_train, tiny_hard_run, tiny_run


def state(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def losses(run_dir: Path) -> list[tuple[str, str]]:
    return [(r["step"], r["train/loss"]) for r in rows(run_dir) if r["train/loss"]]


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def test_a_run_directory_holds_everything(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    metrics = train(tiny_run(folder_root, run))
    written = json.loads((run / "metrics.json").read_text())
    assert written == pytest.approx(metrics)
    for key in ("test/pair_auc", "val/loss", "val/pair_auc", "test/pair_auc_untrained"):
        assert isinstance(written[key], float)
    assert {"test/pair_auc_lab", "test/pair_auc_lab_position", "seconds/fit"} <= written.keys()
    assert written["steps"] == 6
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.trainer.max_epochs == 2
    saved = (run / "config.yaml").read_text()
    assert cfg.run_dir == str(run)
    assert saved.count("${") == saved.count("${run_dir}/") == 3  # all else is resolved
    assert {r["step"] for r in rows(run)} >= {"0", "5"}
    assert any(r["val/pair_auc"] for r in rows(run))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert sorted(p.name for p in (run / "pictures").iterdir()) == [
        "step_000003.png", "step_000006.png", "test.png",
    ]  # fmt: skip
    assert load_extractor(run / "checkpoints" / "best.ckpt").hparams["dim"] == 8


def test_gradients_of_a_fused_optimiser_are_clipped_in_bfloat16(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `experiment=softfeat_photos trainer=gpu` needs it; Lightning refuses the pair."""
    norms = []
    step = torch.optim.AdamW.step

    def measured(self: torch.optim.AdamW, closure: Callable[[], object]) -> None:
        closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    options = ("trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1e-4")
    train(tiny_run(folder_root, tmp_path / "run", *options))
    assert len(norms) == 6
    assert max(norms) <= 1.01e-4


def test_best_is_the_validation_with_the_highest_auc(folder_root: Path, tmp_path: Path) -> None:
    metrics = train(tiny_run(folder_root, tmp_path / "run"))
    scores = [float(r["val/pair_auc"]) for r in rows(tmp_path / "run") if r["val/pair_auc"]]
    assert metrics["val/pair_auc"] == pytest.approx(max(scores))


def test_the_same_seed_gives_the_same_run(folder_root: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_run(folder_root, tmp_path / name, f"seed={seed}"))
    first, second, other = (state(tmp_path / n)["state_dict"] for n in "abc")
    assert equal(first, second)
    assert not equal(first, other)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize(
    ("system", "workers"),
    [
        *product(["soft", "hard, stored features", "hard, end to end"], [0, 2]),
        ("soft, sampled pixels", 0),
        ("soft, classifier", 0),
        ("soft, sampled pixels and classifier", 0),
        ("soft, classifier, average", 0),
        ("clicks", 2),
    ],
)
def test_two_epochs_equal_one_and_a_resume(
    folder_root: Path, mixture_root: Path, tmp_path: Path, system: str, workers: int
) -> None:
    options = [f"data.num_workers={workers}", "data.augmentation.scale=[0.7,1.5]"]
    root = folder_root
    if system == "hard, end to end":
        options += ["model.end_to_end=true", "model.cache_features=false"]

    if "classifier" in system:
        options += ["data=mixture", "model.classifier_weight=0.5", "data.augmentation.colour=0.2"]
        options += ["model.class_weights=frequency"]
        root = mixture_root
    if "sampled pixels" in system:
        options += ["loss=pixel_npair", "model.sample_pixels.num_samples=20"]
    if "average" in system:
        options += ["callbacks/average=ema", "callbacks.average.decay=0.5"]

    if system == "clicks":
        options += ["model=clicks", "model.features_checkpoint=null", "optimized_metric=val/iou"]
        options += ["model.channels=8", "model.layers=1", "model.clicks=[1,1]"]
        options += ["callbacks.guided_filter=null", "callbacks.pictures=null"]

    def configured(run: Path, *more: str) -> DictConfig:
        if system == "clicks":
            return tiny_run(root, run, *options, *more)
        if system.startswith("soft"):
            return tiny_run(root, run, *options, *more)
        return tiny_hard_run(folder_root, run, None, *options, *more)

    train(configured(tmp_path / "whole"))
    cfg = configured(tmp_path / "x").model
    rates = [float(r["train/lr"]) for r in rows(tmp_path / "whole") if r["train/lr"]]
    scale = [
        (1 - step / 6) ** 0.9 * min(1, (step + 1) / (cfg.warmup_steps + 1)) for step in range(6)
    ]
    assert rates == pytest.approx([cfg.optimizer.lr * factor for factor in scale])
    broken = tmp_path / "broken"
    train(configured(broken, "+trainer.max_steps=3"))
    assert state(broken)["global_step"] == 3
    train(resumed_config(broken, ["trainer.max_steps=-1"]), resume=True)

    whole, resumed = state(tmp_path / "whole"), state(broken)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert equal(whole[key], resumed[key]), key
    if "average" in system:
        assert equal(whole["current_model_state"], resumed["current_model_state"])
        assert not equal(whole["current_model_state"], whole["state_dict"])
    assert losses(tmp_path / "whole") == losses(broken)
    assert [float(r["train/lr"]) for r in rows(broken) if r["train/lr"]] == rates
    if "classifier" in system:
        assert whole["state_dict"]["classifier.map.weight"].shape == (2 + 3 + 4 + 5 + 6, 8)
        assert load_extractor(broken).hparams["dim"] == 8
    expected, got = (
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "broken")
    )
    for key in expected.keys() - {"seconds/fit"}:
        assert got[key] == pytest.approx(expected[key]), key


def test_sets_without_a_subject_are_sets_of_the_data(mixture_root: Path, tmp_path: Path) -> None:
    options = ["experiment=clicks_objects", f"data.root={mixture_root}", f"run_dir={tmp_path}/run"]
    cfg = compose_train(*options, "model.no_subject=[hair_figaro]")
    data = instantiate(cfg.data)
    assert numbers_of_sets(cfg, data) == [4]
    cfg.model.no_subject = ["hair"]
    with pytest.raises(ValueError, match=r"no_subject: hair is not in the data's sets: voc2012"):
        numbers_of_sets(cfg, data)


def test_a_resumed_head_keeps_the_extractor_it_had(folder_root: Path, tmp_path: Path) -> None:
    """Though the soft features have been trained on, or are gone."""
    soft, whole, broken = (tmp_path / name for name in ("soft", "whole", "broken"))
    train(tiny_run(folder_root, soft))
    train(tiny_hard_run(folder_root, whole, soft))
    train(tiny_hard_run(folder_root, broken, soft, "+trainer.max_steps=3"))
    (soft / "checkpoints" / "best.ckpt").unlink()
    train(resumed_config(broken, ["trainer.max_steps=-1"]), resume=True)
    assert equal(state(whole)["state_dict"], state(broken)["state_dict"])


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_whole_training_leaves_a_frozen_extractor_alone(
    folder_root: Path, tmp_path: Path, cached: str
) -> None:
    train(tiny_run(folder_root, tmp_path / "soft"))
    option = f"model.cache_features={cached}"
    train(tiny_hard_run(folder_root, tmp_path / "hard", tmp_path / "soft", option))
    before, after = (state(tmp_path / n, "best")["state_dict"] for n in ("soft", "hard"))
    for key in (key for key in before if key.startswith("extractor.")):
        assert torch.equal(before[key], after[key]), key


def test_hard_segmentation_runs_on_cityscapes_as_it_comes(tmp_path: Path) -> None:
    root = real_data("cityscapes_sample")
    options = [f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "debug=one_step"]
    options += [f"run_dir={tmp_path / 'run'}", "run_id=abc", *TINY, "data.image_size=[64,128]"]
    cfg = compose_train("experiment=hardseg_cityscapes", "model.features_checkpoint=null", *options)
    metrics = train(cfg)
    assert state(tmp_path / "run")["hard_segmentation"]["num_classes"] == 19
    assert 0 <= metrics["test/miou"] <= 1
    assert {key for key in metrics if key.startswith("test/iou/")} >= {"test/iou/road"}


def test_a_run_that_was_killed_in_its_first_checkpoint_starts_again(
    folder_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    unfinished = run / "checkpoints" / ".partial-0123abcd-last.ckpt"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"PK")
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    assert {p.name for p in unfinished.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_killed_epoch_is_run_again_without_double_rows(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    with (run / "metrics.csv").open("a") as file:  # what the killed epoch had logged
        file.write(",".join(["3" if n == "step" else "" for n in rows(run)[0]]) + "\n")
    train(resumed_config(run, ["trainer.max_epochs=2"]), resume=True)
    steps = [step for step, _ in losses(run)]
    assert steps == ["0", "1", "2", "3", "4", "5"]


def test_a_longer_training_may_be_resumed(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_run(folder_root, run))
    cfg = resumed_config(run, ["resume=x", "trainer.max_epochs=3"])
    assert train(cfg, resume=True)["steps"] == 9
    # The rate ends at 0 with the longer training, after a step at the rate that was saved.
    rates = [float(r["train/lr"]) for r in rows(run) if r["train/lr"]]
    lr = cfg.model.optimizer.lr
    scale = [(1 - step / 9) ** 0.9 * min(1, (step + 1) / 51) for step in (7, 8)]
    assert rates[6] == 0
    assert rates[7:] == pytest.approx([lr * factor for factor in scale])


def test_a_moved_run_is_resumed_where_it_lies(folder_root: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    run.rename(moved)
    train(resumed_config(moved, ["trainer.max_epochs=2"]), resume=True)
    assert state(moved)["global_step"] == 6
    assert not run.exists()


def test_a_moved_run_with_a_quoted_path_is_resumed_where_it_is(
    folder_root: Path, tmp_path: Path
) -> None:
    """Even if another run now has its old place."""
    run, moved = tmp_path / "it's: a #run", tmp_path / "elsewhere"
    train(tiny_run(folder_root, tmp_path / "run", "trainer.max_epochs=1"))
    (tmp_path / "run").rename(run)
    train(resumed_config(run, ["trainer.max_epochs=2"]), resume=True)
    assert "'" in (run / "config.yaml").read_text().partition("run_dir: ")[2][:1]  # YAML quotes it
    shutil.copytree(run, moved)
    before = (run / "metrics.csv").read_bytes()
    cfg = resumed_config(moved, ["trainer.max_epochs=3"])
    assert cfg.callbacks.last.dirpath == f"{moved}/checkpoints"
    train(cfg, resume=True)
    assert (state(run)["global_step"], state(moved)["global_step"]) == (6, 9)
    assert (run / "metrics.csv").read_bytes() == before


AWKWARD = "it's ${b}, a=[1] #ü"


def metrics_of(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def assert_the_same_metrics(run: Path, other: Path) -> None:
    first, second = metrics_of(run), metrics_of(other)
    assert first.keys() == second.keys()
    for key in first.keys() - {"seconds/fit"}:
        assert first[key] == pytest.approx(second[key]), key


def test_a_run_killed_after_its_last_validation_has_the_same_metrics(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is continued. Its training is complete, and only the test is missing."""
    whole, broken, moved = tmp_path / "whole", tmp_path / "broken", tmp_path / AWKWARD
    train(tiny_run(folder_root, whole))
    with monkeypatch.context() as patched:
        patched.setattr("pytorch_lightning.Trainer.test", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny_run(folder_root, broken))
    assert not (broken / "metrics.json").exists()
    seconds = state(broken)["metrics"]["seconds/fit"]
    broken.rename(moved)
    train(resumed_config(moved, []), resume=True)
    assert_the_same_metrics(moved, whole)
    assert metrics_of(moved)["seconds/fit"] > seconds
    assert not broken.exists()


def test_a_moved_run_keeps_its_best_weights(folder_root: Path, tmp_path: Path) -> None:
    """Though later ones are worse: they are not the best only because the run has moved."""
    run, moved = tmp_path / "run", tmp_path / AWKWARD
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    best = run / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for kept in last["callbacks"].values():
        if kept.get("monitor") is not None:
            kept.update(best_model_score=torch.tensor(2.0), kth_value=torch.tensor(2.0))
            kept["best_k_models"] = dict.fromkeys(kept["best_k_models"], torch.tensor(2.0))
    torch.save(last, run / "checkpoints" / "last.ckpt")
    run.rename(moved)
    metrics = train(resumed_config(moved, ["trainer.max_epochs=2"]), resume=True)
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == before
    assert metrics["val/pair_auc"] == 2
    assert sorted(p.name for p in moved.glob("checkpoints/*")) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_a_killed_command_is_resumed_elsewhere(folder_root: Path, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, by a signal that no program can handle."""
    whole, run, moved = tmp_path / "whole", tmp_path / "a=b, c", tmp_path / AWKWARD
    options = ["experiment=softfeat_camvid", *TINY, "data.steps_per_epoch=100"]
    options += ["trainer.max_epochs=3", override("data.root", folder_root), "data.batch_size=2"]
    options += [override("data.cache_dir", tmp_path / "cache")]
    first = run_module("softfeat.commands.train", *options, override("run_dir", whole))
    assert first.returncode == 0, first.stderr
    command = [sys.executable, "-m", "softfeat.commands.train", *options]
    process = subprocess.Popen(
        [*command, override("run_dir", run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        logged = run / "metrics.csv"
        if logged.is_file() and any(int(r["step"] or 0) > 130 for r in rows(run)):
            process.kill()
        time.sleep(0.05)
    assert process.returncode == -signal.SIGKILL
    assert state(run)["global_step"] in (100, 200)
    run.rename(moved)
    second = run_module("softfeat.commands.train", override("resume", moved))
    assert second.returncode == 0, second.stderr
    assert_the_same_metrics(moved, whole)
    assert losses(moved) == losses(whole)
    assert not run.exists()


def test_a_moved_run_keeps_a_data_folder_with_the_same_beginning(
    folder_root: Path, tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    data = folder_root.rename(tmp_path / "run_photos")
    train(tiny_run(data, run, "trainer.max_epochs=1"))
    run.rename(moved)
    cfg = resumed_config(moved, ["trainer.max_epochs=2"])
    assert cfg.data.root == str(data)
    train(cfg, resume=True)
    assert state(moved)["global_step"] == 6


def test_a_run_directory_is_not_used_twice(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    with pytest.raises(ValueError, match="holds a run"):
        train(tiny_run(folder_root, run))


def test_resume_refuses_what_it_cannot_do(folder_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        resumed_config(tmp_path, [])
    run = tmp_path / "run"
    train(tiny_run(folder_root, run, "trainer.max_epochs=1"))
    for change in ("data=ade20k", "experiment=softfeat_scenes", "model.optimizer.lr=1", "sedd=3"):
        with pytest.raises(ValueError, match="can only change"):
            resumed_config(run, [change])


def test_a_non_finite_loss_names_its_photos_and_spares_the_checkpoints(
    folder_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cfg = tiny_run(folder_root, run, "model.optimizer.lr=1e38", "trainer.max_epochs=9")
    with pytest.raises(
        FloatingPointError, match=r"(?s)loss of step \d+ is .*/images/train/\d\.jpg"
    ):
        train(cfg)
    if (run / "checkpoints" / "last.ckpt").is_file():
        assert all(
            v.isfinite().all() for k, v in state(run)["state_dict"].items() if "readout" in k
        )


@pytest.mark.parametrize("instructions", [True, False])
def test_bf16_trains_and_says_where_it_is_slow(
    folder_root: Path, tmp_path: Path, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": instructions})
    cfg = tiny_run(folder_root, tmp_path / "run", "trainer.precision=bf16-mixed")
    with warnings.catch_warnings(record=True) as caught:
        assert 0 <= train(cfg)["test/pair_auc"] <= 1
    told = [w for w in caught if "trainer.precision=32-true" in str(w.message)]
    assert len(told) == (not instructions)


@pytest.mark.parametrize("mode", ["auto", "offline", "disabled"])
def test_wandb_needs_neither_credentials_nor_answers(
    folder_root: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    run = tmp_path / "run"
    train(tiny_run(folder_root, run, "logger=wandb", f"logger.mode={mode}", "trainer.max_epochs=1"))
    finish_wandb()
    runs = list((run / "wandb").glob("offline-run-*-abc")) if (run / "wandb").is_dir() else []
    assert len(runs) == (mode != "disabled")
    if runs:
        assert list(runs[0].glob("*.wandb"))


def test_a_failed_run_is_failed_in_wandb(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, finish = [], wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda code: (codes.append(code), finish(code)))
    options = ("logger=wandb", "logger.mode=offline", "trainer.max_epochs=9")
    with pytest.raises(FloatingPointError):
        train(tiny_run(folder_root, tmp_path / "bad", *options, "model.optimizer.lr=1e38"))
    assert wandb.run is None
    train(tiny_run(folder_root, tmp_path / "good", *options))
    assert codes == [1, 0]
    assert wandb.run is None


def test_a_run_that_failed_at_the_start_can_start_again(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="from 2 to 32767"):
        train(tiny_run(folder_root, run, "data.superpixels.count=-5"))
    with pytest.raises(DataError, match="nowhere"):  # found when the data are prepared
        train(
            tiny_run(folder_root, run, "data.root=/nowhere", "logger=wandb", "logger.mode=offline")
        )
    assert not run.exists()
    with pytest.raises(FloatingPointError):  # after a step, but before a checkpoint
        train(tiny_run(folder_root, run, "model.optimizer.lr=1e38", "data.steps_per_epoch=9"))
    assert {path.name for path in run.iterdir()} == {"config.yaml", "machine.json", "metrics.csv"}
    assert train(tiny_run(folder_root, run))["steps"] == 6
    assert [step for step, _ in losses(run)] == [str(step) for step in range(6)]


def test_two_trainings_do_not_share_a_run_directory(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with (
        FileLock(run / "running.lock"),
        pytest.raises(ValueError, match="another training is running"),
    ):
        train(tiny_run(folder_root, run))


def test_the_command_trains_and_resumes(folder_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [
        "experiment=softfeat_camvid",
        f"data.root={folder_root}",
        f"data.cache_dir={tmp_path / 'cache'}",
        *TINY,
        "data.steps_per_epoch=2",
        "trainer.max_epochs=1",
        f"run_dir={run}",
    ]
    first = run_module("src.train", *options)
    assert first.returncode == 0, first.stderr
    assert "test/pair_auc" in first.stdout
    identity = OmegaConf.load(run / "config.yaml").run_id
    second = call_command("train", f"resume={run}", "trainer.max_epochs=2")
    assert second.returncode == 0, second.stderr
    assert state(run)["global_step"] == 4
    assert OmegaConf.load(run / "config.yaml").run_id == identity


def test_errors_are_for_people() -> None:
    result = call_command("train", "experiment=softfeat_ade20k", "data.root=/nowhere")
    assert result.returncode == 1
    assert "csail.mit.edu" in result.stderr
    assert "ADEChallengeData2016/" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_untrained_network_scores_as_the_baseline(folder_root: Path, tmp_path: Path) -> None:
    """At step 0 with the baseline's seed the trained network is the untrained one."""
    cfg = tiny_run(folder_root, tmp_path / "run", "seed=0", "model.optimizer.lr=1e-30")
    cfg.model.optimizer.weight_decay = 0.0
    train(cfg)
    trained = load_extractor(tmp_path / "run" / "checkpoints" / "last.ckpt")
    torch.manual_seed(0)
    fresh = build_extractor(trained.hparams)
    for key, value in fresh.named_parameters():
        assert torch.allclose(value, trained.get_parameter(key), rtol=0, atol=1e-20), key


def test_a_head_gets_the_extractor_of_the_checkpoint(folder_root: Path, tmp_path: Path) -> None:
    trained = build_extractor(
        {"network": "bottleneck", "widths": [8, 16], "blocks": [1, 1], "dim": 8}
    )
    soft = {f"extractor.{key}": value for key, value in trained.state_dict().items()}
    file = tmp_path / "soft.ckpt"
    torch.save({"extractor": trained.hparams, "state_dict": soft}, file)
    cfg = tiny_hard_run(folder_root, tmp_path / "run", file, "extractor.recompute=2")
    extractor = make_extractor(cfg)
    assert extractor.recompute == 2  # a setting of the training
    assert equal(dict(extractor.state_dict()), dict(trained.state_dict()))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.class_weights=median", "class_weights=median: choose equal or frequency"),
        ("model.end_to_end=true", "choose one"),
        ("data.layout.contrast=[0]", r"data\.layout\.contrast=\[\]"),
    ],
)
def test_contradicting_settings_of_a_head_are_refused(
    folder_root: Path, tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny_hard_run(folder_root, tmp_path / "run", None, option))


def test_photos_of_ones_own_train_with_one_line(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe and the name of the scenes are not used."""
    monkeypatch.chdir(tmp_path)
    root = folder_root.rename(tmp_path / "pets")
    result = call_command(
        "train", "data=folder", f"data.root={root}", "debug=one_step",
        "trainer.accelerator=cpu", "extractor.blocks=[1,1]", "extractor.widths=[4,8]",
        f"data.cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs" / "pets").iterdir()
    assert json.loads((run / "metrics.json").read_text())["steps"] == 1
    cfg = OmegaConf.load(run / "config.yaml")
    assert (cfg.name, list(cfg.data.image_size), cfg.data.superpixels.count) == (
        "pets", [224, 224], 500,
    )  # fmt: skip
    assert (list(cfg.data.augmentation.scale), cfg.data.augmentation.colour) == ([0.6, 1.6], 0.3)


def test_the_default_is_the_scenes() -> None:
    cfg, named = compose_train(), compose_train("experiment=softfeat_scenes")
    assert cfg == named
    assert (cfg.name, list(cfg.data.image_size), cfg.trainer.max_epochs) == (
        "softfeat_scenes", [160, 160], 5,
    )  # fmt: skip

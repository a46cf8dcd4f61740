"""No value of a setting ends in a traceback, and no value without a meaning is accepted."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from softfeat.commands.cli import explained, is_users_error
from softfeat.commands.train import make_data, make_extractor, make_module
from softfeat.training.settings import check_sections, check_settings
from tests.helpers.trainings import tiny_hard_run, tiny_run

# Keys that take some of the values below.
TAKES: dict[str, tuple[Any, ...]] = {
    "data.root": (None, "x"),
    "data.cache_dir": ("x",),
    "data.augmentation": (None,),
    "data.num_workers": (None,),
    "data.variants": (None,),
    "extractor.readout_scale": (None, 0.5),
    "data.layout.contrast": ([],),
    "data.layout.num_classes": (None,),
    "trainer.enable_model_summary": (None,),
    "trainer.num_sanity_val_steps": (-1,),
    "model.optimizer.fused": (None,),
    "model.features_checkpoint": (None, "x"),
}
VALUES = (-1, math.nan, "x", None, [], 10**9)


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{where}.{key}" if where else key)
    elif not where.rpartition(".")[2].startswith("_"):
        yield where, node


def construct(cfg: DictConfig, section: str, made: dict[str, Any]) -> None:
    """Makes what the settings of a section decide."""
    check_sections(cfg)
    OmegaConf.resolve(cfg)
    check_settings(cfg)
    if section == "extractor":
        make_extractor(cfg)
    elif section == "data":
        make_data(cfg, made["extractor"])
    elif section in ("model", "loss"):
        make_module(cfg, made["extractor"], made["data"])
    else:
        instantiate(cfg[section])


@pytest.mark.parametrize("section", ["data", "extractor", "loss", "model", "trainer", "callbacks"])
@pytest.mark.parametrize("system", ["soft", "hard"])
def test_numbers_out_of_range_and_of_other_types_are_refused(
    section: str, system: str, folder_root: Path, tmp_path: Path
) -> None:
    if system == "hard" and section != "model":
        return
    base = (
        tiny_run(folder_root, tmp_path / "run")
        if system == "soft"
        else tiny_hard_run(folder_root, tmp_path / "run", None)
    )
    made: dict[str, Any] = {"extractor": make_extractor(base)}
    made["data"] = make_data(base, made["extractor"])
    accepted = []
    for key, value in leaves(OmegaConf.to_container(base[section], resolve=True), section):
        if isinstance(value, str) or "._" in key:
            continue
        for bad in VALUES:
            if any(bad is good or bad == good for good in TAKES.get(key, ())):
                continue
            cfg = base.copy()
            OmegaConf.update(cfg, key, bad)
            try:
                construct(cfg, section, made)
            except Exception as error:
                if not is_users_error(error):
                    raise
                message = explained(error)
                assert key.rpartition(".")[2] in message, (key, bad, message)
                assert "\n" not in message, message
            else:
                accepted.append((key, bad))
    # Large numbers are slow, not wrong.
    assert [each for each in accepted if each[1] != VALUES[-1]] == []


@pytest.mark.parametrize(
    "setting",
    [
        "seed=-1", "data.batch_size=0", "data.image_size=64", "data.image_size=[1,1]",
        "data.steps_per_epoch=0", "data.superpixels.count=1", "data.num_workers=-1",
        "data.augmentation.flip=5", "data.augmentation.scale=[2,1]", "data=null",
        "model.optimizer.lr=0", "model.optimizer.lr=1e400", "model.optimizer.weight_decay=-1",
        "model.optimizer.lr=.nan", "model.optimizer.fused=maybe", "trainer.max_epochs=0",
        "trainer.max_epochs=-1", "trainer.max_epochs=1.5", "trainer.accelerator=tpus",
        "trainer.devices=0", "trainer.precision=17", "optimized_metric=val/auk",
        "callbacks.best=null", "callbacks.finite=3", "trainer.log_every_n_steps=x",
    ],
)  # fmt: skip
def test_an_error_names_the_setting(setting: str, folder_root: Path, tmp_path: Path) -> None:
    cfg = tiny_run(folder_root, tmp_path / "run")
    key, _, text = setting.partition("=")
    OmegaConf.update(cfg, key, OmegaConf.create(f"v: {text}").v, merge=False)
    try:
        check_sections(cfg)
        check_settings(cfg)
        extractor = make_extractor(cfg)
        make_module(cfg, extractor, make_data(cfg, extractor))
    except (ValueError, InstantiationException) as error:
        message = explained(error)
    assert message.startswith(key)


@pytest.mark.parametrize(
    "setting",
    [
        ("val_check_interval", 0), ("val_check_interval", 99), ("val_check_interval", 1.5),
        ("limit_val_batches", -1), ("gradient_clip_val", -1), ("accumulate_grad_batches", 0),
        ("check_val_every_n_epoch", 0), ("use_distributed_sampler", True),
    ],
)  # fmt: skip
def test_settings_that_a_user_adds_are_checked(
    setting: tuple[str, Any], folder_root: Path, tmp_path: Path
) -> None:
    cfg = tiny_run(folder_root, tmp_path / "run", f"++trainer.{setting[0]}={setting[1]}")
    with pytest.raises(ValueError, match=rf"^trainer\.{setting[0]}"):
        check_settings(cfg)


def test_a_gpu_that_is_not_there(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cfg = tiny_run(folder_root, tmp_path / "run", "trainer.accelerator=gpu")
    with pytest.raises(ValueError, match="no GPU"):
        check_settings(cfg)

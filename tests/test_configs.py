"""Every entry of conf/ is read by something, and every experiment runs."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from softfeat.commands.train import train
from softfeat.models.extractor import BottleneckExtractor
from softfeat.training.schedule import POWER
from softfeat.training.soft_features import SoftFeatureModule
from tests.helpers.configs import check_keys, unread_keys
from tests.helpers.paths import CONF, ROOT
from tests.helpers.trainings import compose_train

SOURCES = "".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
ROOTS = {
    "clicks_objects": "mixture_root",
    "softfeat_ade20k": "ade20k_root",
    "softfeat_cityscapes": "cityscapes_root",
    "softfeat_mixture": "mixture_root",
    "softfeat_photos": "mixture_root",
    "softfeat_road": "mixture_root",
    "hardseg_cityscapes": "cityscapes_root",
}


def groups(name: str) -> list[str]:
    return sorted(p.stem for p in (CONF / name).glob("*.yaml"))


GROUPS = [
    "data", "extractor", "loss", "trainer", "debug", "logger", "model", "callbacks", "launcher",
    "sweep",
]  # fmt: skip


def compose_group(group: str, choice: str) -> DictConfig:
    """A choice of a group, under the default experiment."""
    options = ["data.root=somewhere", "run_id=x", f"{group}={choice}"]
    if choice == "hard_segmentation" and group == "model":
        options.append("model.features_checkpoint=null")
    return compose_train(*options)


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_a_group_composes_and_is_read(group: str) -> None:
    for choice in groups(group):
        if (group, choice) != ("data", "default"):  # the base of the others
            check_keys(compose_group(group, choice), SOURCES)


@pytest.mark.parametrize(
    "name", ["precompute", "evaluate", "export", "figures", "dashboard", "segment"]
)
def test_other_entry_points_compose_and_are_read(name: str) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        required = {
            "evaluate": ["checkpoint=x"],
            "export": ["checkpoint=x", "output=x"],
            "figures": ["checkpoint=x", "input=x", "output=x"],
        }
        check_keys(compose(name, overrides=required.get(name, [])), SOURCES)


def test_photos_are_eleven_sets_five_of_them_with_a_contrast_class(mixture_root: Path) -> None:
    cfg = compose_train("data=photos", f"data.root={mixture_root}", "data.balance=sqrt", "run_id=x")
    data = instantiate(cfg.data)
    sets = data.layout.layouts
    assert list(sets)[:5] == list(compose_group("data", "mixture").data.layout.layouts)
    contrast = ["voc2012", "coco_objects", "pascal_person_part", "pets_oxford", "hair_figaro"]
    assert [name for name, layout in sets.items() if layout.contrast] == contrast
    for number, (name, layout) in enumerate(sets.items()):
        assert layout.contrast == ((0,) if name in contrast else ())
        assert len(layout.class_names) == 2 + number - (name in contrast)
    assert data.layout.held_out == ()
    assert (data.balance, compose_group("data", "photos").data.balance) == ("sqrt", "photos")


def test_a_contrast_class_is_set_by_its_key(folder_root: Path) -> None:
    options = ("data=folder", f"data.root={folder_root}", "run_id=x")
    assert instantiate(compose_train(*options).data).layout.contrast == ()
    cfg = compose_train(*options, "data.layout.contrast=[class 0]")
    assert instantiate(cfg.data).layout.class_names == ("class 1", "class 2")


def test_a_key_that_nothing_reads_is_found() -> None:
    node = {"loss": {"_target_": "softfeat.ops.npair.npair_loss", "margin": 1}}
    assert unread_keys(node, SOURCES) == [".loss.margin"]


@pytest.mark.parametrize("trainer", ["cpu", "default", "ddp"])
def test_trainers_instantiate(trainer: str) -> None:
    assert instantiate(compose_train(f"trainer={trainer}").trainer, logger=False)


@pytest.mark.parametrize("launcher", groups("launcher"))
def test_launchers_instantiate(launcher: str) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("train", overrides=[f"launcher={launcher}"], return_hydra_config=True)
    made = Plugins.instance().instantiate_launcher(None, None, cfg)  # type: ignore[arg-type]
    assert launcher in type(made).__module__


@pytest.mark.parametrize("name", groups("sweep"))
def test_a_search_sets_keys_that_are_read(name: str) -> None:
    cfg = compose_train(f"sweep={name}")
    metrics = {cfg.optimized_metric: 0.5}
    cfg.search.storage = "sqlite://"  # in memory
    before = OmegaConf.to_container(cfg.model)
    assert instantiate(cfg.search).run_trial(cfg, lambda _: metrics) == 0.5
    assert OmegaConf.to_container(cfg.model) != before
    check_keys(cfg, SOURCES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_makes_one_step(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = ROOTS.get(name, "folder_root")
    options = [
        f"experiment={name}",
        "debug=one_step",
        "trainer.accelerator=cpu",
        "data.image_size=[48,48]",
        "data.superpixels.count=30",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"run_dir={tmp_path / 'run'}",
        "run_id=test",
    ]
    if "scenes" in name:
        options += ["data.layout.counts={train:4,val:1,test:1}"]
    else:
        options.append(f"data.root={request.getfixturevalue(root)}")
    if name.startswith(("hardseg", "clicks")):
        options.append("model.features_checkpoint=null")
    if name in ("softfeat_photos", "clicks_objects"):  # the sets here are too small for it
        options.append("data.hold_back=false")
    cfg = compose_train(*options)
    check_keys(cfg, SOURCES)
    assert cfg.name == name
    metrics = train(cfg)
    assert metrics["steps"] == 1
    assert 0 <= metrics[cfg.optimized_metric.replace("val/", "test/")] <= 1


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("clicks_objects", 2000), ("hardseg_camvid", 920), ("hardseg_cityscapes", 14880),
        ("hardseg_idd", 1760),
        ("hardseg_scenes", 400), ("softfeat_ade20k", 60000), ("softfeat_camvid", 2000),
        ("softfeat_cityscapes", 20000), ("softfeat_mixture", 10000), ("softfeat_photos", 6000),
        ("softfeat_road", 3000), ("softfeat_scenes", 1100), ("softfeat_scenes_printed", 1100),
    ],
)  # fmt: skip
def test_learning_rates_end_at_zero_with_the_training(name: str, steps: int) -> None:
    cfg = compose_train(f"experiment={name}", "data.root=x", "run_id=x")
    module = SoftFeatureModule(
        BottleneckExtractor(widths=[4, 4], blocks=[1, 1], dim=4),
        optimizer=partial(torch.optim.SGD, lr=cfg.model.optimizer.lr),
        warmup_steps=cfg.model.warmup_steps,
    )
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        max_epochs=cfg.trainer.max_epochs,
        datamodule=SimpleNamespace(steps_per_epoch=cfg.data.steps_per_epoch),
    )
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    (factor,) = schedule.lr_lambdas
    warmup = cfg.model.warmup_steps
    for step in (0, 1, 30, steps // 2, steps - 1, steps):
        expected = (1 - step / steps) ** 0.9 * min(1, (step + 1) / (warmup + 1))
        assert factor(step) == pytest.approx(expected)
    assert factor(steps) == 0 < factor(steps - 1)


@pytest.mark.parametrize("data", [c for c in groups("data") if c != "default"])
def test_a_choice_of_data_has_no_recipe_of_the_scenes(data: str) -> None:
    if data == "small_scenes":
        return
    cfg = compose_train(f"data={data}", "data.root=some/photos")
    assert cfg.name == "photos"
    assert list(cfg.data.image_size) == [224, 224]
    assert (cfg.data.superpixels.count, cfg.trainer.max_epochs) == (500, 10)


def test_the_papers_recipe_is_as_printed() -> None:
    cfg = compose_train("experiment=softfeat_ade20k", "data.root=x", "run_id=x")
    optimizer = cfg.model.optimizer
    assert (optimizer._target_, optimizer.lr) == ("torch.optim.SGD", 1e-3)
    assert (optimizer.momentum, optimizer.weight_decay, POWER) == (0.9, 5e-4, 0.9)
    assert cfg.data.batch_size == 4
    assert cfg.trainer.max_epochs * cfg.data.steps_per_epoch == 60000
    assert (cfg.data.superpixels.count, list(cfg.data.image_size)) == (500, [224, 224])
    assert (cfg.loss.negative, cfg.loss.balance) == ("printed", "none")
    assert cfg.extractor.readout_scale is None
    assert cfg.logger._target_.endswith("make_wandb_logger")

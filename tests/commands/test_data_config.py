"""The data set that a checkpoint is scored on."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from softfeat.commands.data_config import data_config
from softfeat.models.checkpoints import write_weights
from softfeat.models.extractor import BottleneckExtractor
from softfeat.training.run_config import save_config
from tests.helpers.trainings import tiny_hard_run


def test_a_checkpoint_on_its_own_asks_for_data(tmp_path: Path) -> None:
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    content = {"extractor": extractor.hparams, "state_dict": state}
    file, weights = tmp_path / "best.ckpt", tmp_path / "a.safetensors"
    torch.save(content, file)
    write_weights(weights, content, {"data.image_size": [16, 24]})
    for checkpoint in (file, weights):
        with pytest.raises(ValueError, match=r"data=NAME data\.root"):
            data_config(OmegaConf.create({"root": None}), [], checkpoint)
    given = OmegaConf.create({"_target_": "x", "image_size": [8, 8]})
    assert data_config(given, [], file) == given
    assert data_config(given, [], weights).image_size == [16, 24]  # that they were trained at
    assert data_config(given, ["image_size"], weights).image_size == [8, 8]


def test_another_data_set_keeps_the_sizes_of_the_training(
    folder_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_config(tiny_hard_run(folder_root, run, None), run / "config.yaml")
    options = ["checkpoint=x", "data=folder", f"data.root={folder_root}", "data.batch_size=7"]
    options.append("data.superpixels.backend=skimage")
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        given = compose("evaluate", overrides=options).data
    by_hand = ["root", "batch_size", "superpixels.backend"]
    config = data_config(given, by_hand, run / "checkpoints" / "best.ckpt")
    assert (list(config.image_size), config.batch_size) == ([32, 32], 7)
    assert (config.superpixels.count, config.num_workers) == (16, 0)
    assert config.superpixels.backend == "skimage"
    assert config.layout._target_.endswith("Folder")

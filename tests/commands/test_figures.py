from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from PIL import Image

from softfeat.commands.figures import Figures, draw_sheets, main, spread_by_score, with_long_side
from softfeat.commands.train import train
from softfeat.imaging.drawing import label_colours
from softfeat.imaging.photo_files import find_photos
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import load_extractor
from softfeat.training.callbacks.guided_filter import GuidedFilter
from tests.helpers.trainings import tiny_hard_run, tiny_run


@pytest.mark.parametrize("system", ["soft", "hard"])
def test_sheets_of_photos_of_any_size(system: str, folder_root: Path, tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "figures"
    make = {
        "soft": lambda: tiny_run(folder_root, run),
        "hard": lambda: tiny_hard_run(folder_root, run, None),
    }
    train(make[system]())
    tall = tmp_path / "tall.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 50, 3), np.uint8)).save(tall)
    photos = find_photos([str(folder_root / "images" / "test"), str(tall)]).photos
    assert len(photos) == 3
    figures = Figures(
        run / "checkpoints" / "best.ckpt", Superpixels(count=20), GuidedFilter(kernel_size=5), 3
    )
    files = draw_sheets(figures, photos, 64, output)
    names = {"guided_filter", "random_projections", "superpixels", "layers"}
    assert set(files) == names | ({"segmentation"} if system == "hard" else set())
    for path in files.values():
        width, height = Image.open(path).size
        assert width >= 3 * 68  # the padded widths: landscape photos are 64 wide
        assert height > 3 * 68


def test_photos_of_a_set_are_taken_by_their_score(
    mixture_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output = tmp_path / "run", tmp_path / "figures"
    train(tiny_run(mixture_root, run, "data=mixture", "trainer.max_epochs=1"))
    options = [f"checkpoint={run}", f"output={output}", "data=mixture", f"data.root={mixture_root}"]
    options += ["data.image_size=[32,40]", "data.superpixels.count=20", "data.num_workers=0"]
    options += [f"data.cache_dir={tmp_path}/cache", "layers=2", "long_side=48"]
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("figures", overrides=[*options, "count=4"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    main.__wrapped__(cfg)  # type: ignore[attr-defined]
    assert (output / "layers.png").is_file()
    data = instantiate(cfg.data, test_split="val")
    extractor = load_extractor(run)
    photos, texts = spread_by_score(extractor, data, 4)
    everyone, scores = spread_by_score(extractor, data, 99)
    assert len(photos) == len(set(photos)) == 4
    assert texts == sorted(texts)
    assert (photos[0], photos[-1]) == (everyone[0], everyone[-1])
    assert (texts[0], texts[-1]) == (scores[0], scores[-1])


def test_true_classes_stand_next_to_those_of_the_head(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_hard_run(folder_root, tmp_path / "run", None))
    common = [f"checkpoint={tmp_path}/run", "layers=0", "long_side=48"]
    of_data = ["data=folder", f"data.root={folder_root}", f"data.cache_dir={tmp_path}/cache"]
    of_data += ["data.image_size=[32,40]", "data.superpixels.count=20", "data.num_workers=0"]
    widths = []
    for number, options in enumerate(([f"input={folder_root}/images/val"], of_data)):
        output = tmp_path / str(number)
        with initialize_config_module("softfeat.conf", version_base="1.3"):
            overrides = [*common, *options, f"output={output}"]
            cfg = compose("figures", overrides=overrides, return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        main.__wrapped__(cfg)  # type: ignore[attr-defined]
        widths.append(Image.open(output / "segmentation.png").width)
    assert widths[1] / widths[0] == pytest.approx(5 / 4, rel=0.05)

    figures = Figures(tmp_path / "run", Superpixels(count=20), GuidedFilter(kernel_size=5), 0)
    label = np.array([[0, 1], [255, 1]], np.uint8).repeat(16, 0).repeat(20, 1)
    drawn = figures(np.zeros((32, 40, 3), np.uint8), label)["segmentation"]
    assert torch.equal(drawn["truth"], label_colours(torch.from_numpy(label.astype(int))[None]))


def test_input_or_data(tmp_path: Path) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("figures", overrides=[f"output={tmp_path}"])
    with pytest.raises(ValueError, match="give either input=PHOTO_OR_FOLDER, or data=NAME"):
        main.__wrapped__(cfg)  # type: ignore[attr-defined]
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("figures", overrides=[f"output={tmp_path}", "data=folder", "count=0"])
    with pytest.raises(ValueError, match="count=0"):
        main.__wrapped__(cfg)  # type: ignore[attr-defined]


def test_photos_keep_their_shape(folder_root: Path) -> None:
    assert with_long_side(np.zeros((40, 48, 3), np.uint8), 24).shape == (20, 24, 3)


def test_missing_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_photos([str(tmp_path / "nowhere.jpg")])
    with pytest.raises(FileNotFoundError, match="input"):
        find_photos([str(tmp_path)])

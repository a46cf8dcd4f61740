from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.callbacks.guided_filter import GuidedFilter
from src.data.images import find_photos
from src.data.slic import Superpixels
from src.figures import Figures, draw_sheets, read_photo
from src.train import train
from tests.conftest import tiny_hard_run, tiny_run


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
    photos = find_photos([str(folder_root / "images" / "test"), str(tall)])
    assert len(photos) == 3
    figures = Figures(
        run / "checkpoints" / "best.ckpt", Superpixels(count=20), GuidedFilter(kernel_size=5)
    )
    files = draw_sheets(figures, photos, 64, output)
    names = {"guided_filter", "random_projections", "superpixels"}
    assert set(files) == names | ({"segmentation"} if system == "hard" else set())
    for path in files.values():
        width, height = Image.open(path).size
        assert width >= 3 * 68  # the padded widths: landscape photos are 64 wide
        assert height > 3 * 68


def test_photos_keep_their_shape(folder_root: Path) -> None:
    assert read_photo(folder_root / "images" / "test" / "0.jpg", 24).shape == (20, 24, 3)


def test_missing_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_photos([str(tmp_path / "nowhere.jpg")])
    with pytest.raises(FileNotFoundError, match="input"):
        find_photos([str(tmp_path)])

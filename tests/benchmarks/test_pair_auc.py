from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pair_auc import pair_auc_of_sets
from benchmarks.tables import markdown
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import Folder, Layout
from softfeat.imaging.slic import Superpixels
from tests.helpers.datasets import make_folder

SETS: dict[str, Callable[..., Layout]] = {
    "camvid": Folder,
    "msrc_v2": partial(Folder, contrast=["class 0"]),
}
SETTINGS: dict[str, Any] = {
    "split": "val",
    "image_size": (32, 40),
    "superpixels": Superpixels(count=20),
    "num_workers": 0,
}


def test_every_way_is_scored_on_every_set(
    mixture_root: Path, checkpoint: str, tmp_path: Path
) -> None:
    result = pair_auc_of_sets(
        mixture_root,
        SETS,
        {"ours": checkpoint},
        cache_dir=tmp_path / "cache",
        **SETTINGS,
    )
    ways = [row["features"] for row in result["rows"]]
    assert ways == ["ours", "untrained network", "Lab", "Lab + position"]
    for row in result["rows"]:
        scores = [float(row[name]) for name in SETS]
        assert all(0 < score < 1 for score in scores)
        assert float(row["mean"]) == pytest.approx(sum(scores) / 2, abs=1e-3)
    text = markdown(result | {"machine": {}})
    assert "| ours |" in text
    assert "ratio" not in text


def test_held_back_photos_are_those_of_the_train_split(
    mixture_root: Path, checkpoint: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "sets" / "camvid", counts=(40, 2, 2))
    every = [path.stem for path in (folder / "images" / "train").iterdir()]
    arguments: Any = (tmp_path / "sets", {"camvid": Folder}, {"ours": checkpoint})
    settings = SETTINGS | {"cache_dir": tmp_path / "cache", "held_back": True}
    result = pair_auc_of_sets(*arguments, **settings)
    assert result["settings"]["photos"] == str(sum(map(is_held_back, every)))
    assert "hold back" in result["title"]
    with pytest.raises(ValueError, match=r"suite\.split=train"):
        pair_auc_of_sets(*arguments, **settings | {"split": "train"})


def test_some_of_the_sets_are_scored_alone(
    mixture_root: Path, checkpoint: str, tmp_path: Path
) -> None:
    arguments = (mixture_root, SETS, {"ours": checkpoint})
    settings = SETTINGS | {"cache_dir": tmp_path / "cache"}
    both = pair_auc_of_sets(*arguments, **settings)
    one = pair_auc_of_sets(*arguments, **settings, sets=["msrc_v2"])
    for row, other in zip(one["rows"], both["rows"], strict=True):
        assert row["mean"] == row["msrc_v2"] == other["msrc_v2"]
        assert "camvid" not in row
    plain = pair_auc_of_sets(mixture_root, {"msrc_v2": Folder}, {"ours": checkpoint}, **settings)
    assert plain["rows"] != one["rows"]  # the contrast class counts
    with pytest.raises(ValueError, match=r"suite\.sets: nyuv2 is none of camvid, msrc_v2"):
        pair_auc_of_sets(*arguments, **settings, sets=["nyuv2"])

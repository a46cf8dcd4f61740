"""The benchmark of objects on sets of a few small photos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.objects import draw_objects, lab_features, largest_objects, objects
from benchmarks.tables import markdown
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import Folder
from softfeat.ops.labels import CONTRAST, IGNORE

SETS = ["voc2012", "pets_oxford"]


def write(root: Path, split: str, stem: str, photo: np.ndarray, label: np.ndarray) -> None:
    for folder, array, suffix in (("images", photo, "png"), ("labels", label, "png")):
        path = root / folder / split / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("background\ncat\ndog\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Red cats and blue dogs on grey noise; the regions are halves of a photo."""
    rng = np.random.default_rng(0)
    for folder, split in ((SETS[0], "val"), (SETS[1], "val"), (SETS[0], "train")):
        for number in range(8, 20) if split == "train" else range(2):
            noise = gaussian_filter(rng.standard_normal((40, 48, 3)), (2, 2, 0))
            photo = (130 + 60 * noise).clip(0, 255).astype(np.uint8)
            label = np.zeros((40, 48), np.uint8)
            photo[8:30, 5:25], label[8:30, 5:25] = (220, 20, 30), 1
            photo[10:35, 30:45], label[10:35, 30:45] = (20, 40, 200), 2
            label[8:30, 25] = 255
            write(tmp_path / "sets" / folder, split, f"photo_{number}", photo, label)
    halves = np.repeat([0, 1], 24)[None].repeat(40, 0).astype(np.uint8)
    write(tmp_path / "sets" / "bsds500", "val", "a", np.stack([200 * halves] * 3, -1), halves)
    return tmp_path / "sets"


def run(root: Path, checkpoint: str, **changed: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "sets": SETS,
        "networks": {"ours": checkpoint},
        "split": "val",
        "held_back": False,
        "count": 2,
        "bsds_count": 1,
        "size": 320,
        "features_sizes": [48],
        "layers": 5,
        "seed": 0,
        "num_workers": 0,
    }
    return objects(root, **defaults | changed)


def test_every_way_is_scored_on_every_set(root: Path, checkpoint: str) -> None:
    result = run(root, checkpoint)
    auto, seconds = result["tables"].values()
    assert [row["way"] for row in result["rows"]] == ["ours", "k-means, ours", "Lab"]
    assert [row["way"] for row in auto] == [row["way"] for row in seconds] == ["ours", "Lab"]
    for row in [*result["rows"], *auto]:
        for folder in SETS:
            single, union = (float(row[f"{folder} {kind} IoU"]) for kind in ("layer", "union"))
            assert 0 < single <= union <= 1
        means = [float(row[f"{folder} layers holding"]) for folder in SETS]
        assert float(row["mean layers holding"]) == pytest.approx(np.mean(means), abs=0.01)
        assert 0 < float(row["bsds500 covering"]) <= 1
    colour = result["rows"][-1]
    assert float(colour["mean union IoU"]) > 0.8  # colour alone divides these photos
    assert colour["bsds500 covering"] == "1.000"
    assert result["settings"]["objects"] == "2 voc2012, 2 pets_oxford"
    text = markdown(result | {"machine": {}})
    assert "| ours |" in text
    assert "ratio" not in text


FEW: dict[str, Any] = {"sets": SETS[:1], "bsds_count": None, "networks": {}}


def test_workers_measure_the_same(root: Path, checkpoint: str) -> None:
    alone, shared = (run(root, checkpoint, **FEW, num_workers=n)["rows"] for n in (0, 2))
    assert alone == shared


def test_photos_that_trainings_hold_back(root: Path, checkpoint: str) -> None:
    assert [i for i in range(8, 20) if is_held_back(f"photo_{i}")] == [19]
    result = run(root, checkpoint, **FEW, split="train", held_back=True, count=10)
    assert result["settings"]["photos"] == "1 voc2012, 0 bsds500"
    assert result["settings"]["objects"] == "2 voc2012"
    assert result["settings"]["split"] == "train, held back"
    assert not any("bsds" in column for column in result["rows"][0])
    with pytest.raises(ValueError, match="none of 0 photos"):
        run(root, checkpoint, held_back=True)  # the val photos are not among them


def test_photos_are_reduced(root: Path, checkpoint: str) -> None:
    small, whole = (run(root, checkpoint, **FEW, size=size)["rows"] for size in (36, 320))
    assert small != whole


def test_the_largest_part_of_each_class_is_the_object() -> None:
    label = np.full((20, 20), CONTRAST, np.uint8)
    label[:5, :5] = 0
    label[10:16, :6] = 0  # larger
    label[0, 19] = 1  # below 3 %
    label[5:, 8:] = 2
    label[6, 7] = IGNORE
    objects_by_class = largest_objects(label)
    assert list(objects_by_class) == [0, 2]
    expected = np.zeros((20, 20), bool)
    expected[10:16, :6] = True
    np.testing.assert_array_equal(objects_by_class[0], expected)
    assert objects_by_class[2].sum() == 15 * 12
    assert not largest_objects(np.zeros((20, 20), np.uint8))  # beyond 60 %


def test_draws_are_the_same_and_nested(root: Path) -> None:
    records = Folder(root / SETS[0], test=None, contrast=[0]).records("train")

    def drawn(count: int, seed: int = 0) -> set[tuple[str, int]]:
        jobs = draw_objects("voc2012", records, count, 320, seed)
        assert len({job.record.image for job in jobs}) == len(jobs)  # one job per photo
        return {(job.record.image.stem, c) for job in jobs for c in job.classes}

    assert len(drawn(5)) == 5
    assert len(drawn(1000)) == 2 * 12
    assert drawn(5) == drawn(5) < drawn(9)
    assert drawn(5) != drawn(5, seed=1)


def test_a_set_without_objects(root: Path) -> None:
    records = Folder(root / "bsds500", test=None, contrast=[0, 1]).records("val")
    with pytest.raises(ValueError, match="bsds500: none of 1 photos shows an object"):
        draw_objects("bsds500", records, 3, 320, 0)


def test_lab_features_are_in_range() -> None:
    image = np.random.default_rng(0).random((12, 9, 3))
    lab = lab_features(image)
    np.testing.assert_allclose(lab.min((0, 1)), 0)
    np.testing.assert_allclose(lab.max((0, 1)), 1)
    grey = lab_features(np.repeat(image[..., :1], 3, -1))
    assert np.isfinite(grey).all()

from pathlib import Path

import numpy as np
import pytest

from softfeat.data.layouts import DataError
from softfeat.data.records import read_record
from softfeat.data.scenes import BOUNDARIES, TEXTURES, Scenes, make_scene


def test_a_scene_hangs_on_its_seed_alone() -> None:
    for first, second in zip(make_scene((0, 1, 2), 64), make_scene((0, 1, 2), 64), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(make_scene((0, 1, 2), 64)[0], make_scene((0, 1, 3), 64)[0])


@pytest.mark.parametrize("seed", range(8))
def test_alphas_add_up_and_labels_follow_them(seed: int) -> None:
    image, label, alphas, classes = make_scene((seed,), 96)
    assert image.shape == (96, 96, 3)
    assert (alphas.astype(int).sum(0) == 255).all()
    assert len(alphas) == len(classes)
    assert label.max() < len(TEXTURES)
    owner = np.zeros((len(TEXTURES), 96, 96), int)
    for alpha, class_id in zip(alphas, classes, strict=True):
        owner[class_id] += alpha
    assert (np.take_along_axis(owner, label[None].astype(int), 0)[0] == owner.max(0)).all()


def test_scenes_have_what_makes_them_hard() -> None:
    scenes = [make_scene((seed,), 96) for seed in range(30)]
    several = np.mean([len(c) > len(set(c)) for *_, c in scenes])
    assert several > 0.8  # several regions of one class
    soft = np.mean([((a > 25) & (a < 230)).any(0).mean() for _, _, a, _ in scenes])
    assert 0.1 < soft < 0.6  # soft pixels, but not everywhere
    # colours vary within a class at least as much as between classes
    means: dict[int, list[np.ndarray]] = {}
    for image, label, *_ in scenes:
        for class_id in np.unique(label):
            means.setdefault(int(class_id), []).append(image[label == class_id].mean(0))
    within = np.mean([np.var(m, 0).mean() for m in means.values()])
    between = np.var([np.mean(m, 0) for m in means.values()], 0).mean()
    assert within > 4 * between


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_every_kind_of_boundary(kind: str) -> None:
    y, x = np.mgrid[:80, :80] - 40.0
    inside = 22 - np.hypot(y, x)
    alpha = BOUNDARIES[kind](np.random.default_rng(0), inside)
    assert alpha.min() >= 0
    assert alpha.max() <= 1 + 1e-9
    assert alpha[40, 40] > 0.5
    assert alpha[0, 0] < 0.01
    soft = ((alpha > 0.05) & (alpha < 0.95)).mean()
    sharp = BOUNDARIES["sharp"](np.random.default_rng(0), inside)
    baseline = ((sharp > 0.05) & (sharp < 0.95)).mean()
    assert kind == "sharp" or soft > 2 * baseline


@pytest.mark.parametrize("name", TEXTURES)
def test_every_texture_is_in_range_and_not_flat(name: str) -> None:
    value = TEXTURES[name](np.random.default_rng(0), 64)
    assert value.shape == (64, 64)
    assert value.min() >= 0
    assert value.max() <= 1
    assert value.std() > 0.03


def test_the_set_is_made_once_and_reads_as_a_folder(tmp_path: Path) -> None:
    counts = {"train": 2, "val": 1, "test": 1}
    scenes = Scenes(tmp_path, counts=counts, size=48, num_workers=0)
    scenes.prepare()
    record = scenes.records("train")[1]
    read_record(record)
    made = record.image.stat().st_mtime_ns
    again = Scenes(tmp_path, counts=counts, size=48, num_workers=0)
    again.prepare()
    assert again.records("train")[1].image.stat().st_mtime_ns == made
    with np.load(scenes.root / "alphas" / "train" / "00001.npz", allow_pickle=False) as stored:
        assert np.array_equal(stored["alphas"], make_scene((0, 0, 1), 48)[2])
    assert Scenes(tmp_path, seed=1, counts=counts, size=48).root != scenes.root
    assert not list(tmp_path.glob("*.partial"))


def test_unknown_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown splits"):
        Scenes(tmp_path, counts={"training": 3})

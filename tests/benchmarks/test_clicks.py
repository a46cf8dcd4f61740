"""The benchmarks of clicks on a few small photos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.clicks import (
    after,
    click_mattes,
    click_times,
    clicks,
    clicks_to,
    deepest_point,
    grabcut,
    iou,
    nearest_click,
    simulate,
    soft_grabcut,
    walker,
)
from benchmarks.tables import markdown
from softfeat.segmenter import Segmenter
from tests.helpers.photos import write_checkpoint

BOX = (8, 10, 28, 32)
CENTRE = (18, 21)


def photo_and_object() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red block on grey noise."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((44, 52, 3)), (2, 2, 0))
    photo = (130 + 60 * noise).clip(0, 255).astype(np.uint8)
    truth = np.zeros((44, 52), bool)
    truth[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    photo[truth] = (220, 20, 30)
    return photo, truth


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt", clicks=True))


def test_the_deepest_point_of_the_largest_part() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:7, 2:7] = mask[10:19, 10:25] = True
    (x, y), area = deepest_point(mask)
    assert area == 9 * 15
    assert y == 14
    assert 14 <= x <= 20
    assert deepest_point(np.zeros((4, 4), bool))[1] == 0
    # The border of the photo is a border.
    assert deepest_point(np.ones((5, 7), bool))[0][1] == 2


def test_iou_counts_valid_pixels_only() -> None:
    truth = np.array([[True, True, False, False]])
    matte = np.array([[0.9, 0.4, 0.6, 0.1]])
    assert iou(matte, truth, np.ones((1, 4), bool)) == pytest.approx(1 / 3)
    assert iou(matte, truth, np.array([[True, True, False, True]])) == pytest.approx(1 / 2)


def test_the_user_clicks_into_errors_and_stops() -> None:
    _, truth = photo_and_object()
    seen: list[tuple[int, int]] = []

    def method(include: Any, exclude: Any, box: Any) -> NDArray:
        """First everything; after a click outside, half of the object; then all of it."""
        seen[:] = [len(include), len(exclude)]
        answer = np.ones(truth.shape)
        if exclude:
            answer = truth.astype(float)
            answer[:21] = 0
        return truth.astype(float) if len(include) > 1 else answer

    every = np.ones(truth.shape, bool)
    answers, ms = simulate(method, truth, every, 9, 0.9)
    assert len(answers) == 3
    assert seen == [2, 1]
    assert ms >= 0
    assert [round(iou(a, truth, every), 2) for a in answers][::2] == [0.19, 1.0]
    few, _ = simulate(method, truth, every, 2, 0.9)
    assert len(few) == 2


@pytest.mark.parametrize("rival", [grabcut, soft_grabcut, walker])
@pytest.mark.parametrize("given", ["click", "box", "both"])
def test_rivals_find_a_thing_of_one_colour(rival: Any, given: str) -> None:
    photo, truth = photo_and_object()
    include = [] if given == "box" else [CENTRE]
    box = None if given == "click" else (6, 8, 30, 34)
    answer = rival(photo, include, [(45, 5)], box)
    assert answer.shape == truth.shape
    assert 0 <= answer.min() <= answer.max() <= 1 + 1e-6
    assert iou(answer, truth, np.ones(truth.shape, bool)) > 0.8


def test_the_nearest_click_decides(checkpoint: str) -> None:
    photo, truth = photo_and_object()
    selector = Segmenter(checkpoint).open(photo).selector
    ids = selector.superpixels
    colours = np.stack([
        np.bincount(ids.ravel(), photo[..., c].ravel()) / np.bincount(ids.ravel())
        for c in range(3)
    ], 1)  # fmt: skip
    answer = nearest_click(selector, colours, [CENTRE], [(45, 5)], None)
    assert iou(answer, truth, np.ones(truth.shape, bool)) > 0.8
    boxed = nearest_click(selector, colours, [], [], (6, 8, 30, 34))
    assert boxed[20, 18] == 1
    assert boxed[2, 2] == 0


def test_scores_of_clicks() -> None:
    scores = [0.5, 0.4, 0.87]
    assert [after(scores, n) for n in (1, 2, 3, 10)] == [0.5, 0.5, 0.87, 0.87]
    assert clicks_to(scores, 0.85, 20) == 3
    assert clicks_to(scores, 0.9, 20) == 20


def test_results(tmp_path: Path, checkpoint: str) -> None:
    photo, truth = photo_and_object()
    for folder in ("voc2012", "pets_oxford"):
        for number in range(2):
            for kind, array in (("images", photo), ("labels", truth.astype(np.uint8))):
                file = tmp_path / folder / kind / "val" / f"photo_{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
        (tmp_path / folder / "classes.txt").write_text("background\ncat\n")
    result = clicks(
        tmp_path,
        ["voc2012", "pets_oxford"],
        checkpoint,
        split="val",
        held_back=False,
        count=2,
        size=320,
        most=4,
        seed=0,
        num_workers=0,
        rivals={"twin": checkpoint},
    )
    assert result["settings"]["objects"] == "2 voc2012, 2 pets_oxford"
    rows = {row["method"]: row for row in result["rows"]}
    assert float(rows["GrabCut"]["10 clicks"]) > 0.8
    assert float(rows["random walker"]["clicks to 85%"]) <= 4
    assert all(0 <= float(row[key]) <= 1 for row in rows.values() for key in ("box", "subject"))
    scores = [{k: v for k, v in rows[n].items() if "cl" in k} for n in ("softfeat", "twin")]
    assert {**scores[0], "ms per click": ""} == {**scores[1], "ms per click": ""}
    assert list(result["tables"]) == ["pets_oxford"]
    assert "| softfeat |" in markdown(result | {"machine": {}})


def test_results_of_mattes(tmp_path: Path, checkpoint: str) -> None:
    photo, truth = photo_and_object()
    for kind, array in (("images", photo), ("alphas", 255 * truth.astype(np.uint8))):
        (tmp_path / kind).mkdir()
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    result = click_mattes(tmp_path, checkpoint, size=320, most=2, every=1)
    errors = {row["method"]: float(row["SAD"]) for row in result["rows"]}
    assert errors["GrabCut"] < 0.1
    assert "GrabCut + guided filter" in errors


def test_times_of_clicks(checkpoint: str) -> None:
    result = click_times(checkpoint, [(80, 60), (160, 120)], rounds=2)
    assert [row["photo"] for row in result["rows"]] == ["80x60", "160x120"]
    assert all(float(row["slowest (ms)"]) >= 0 for row in result["rows"])
    assert "clicks: 2" in markdown(result | {"machine": {}})

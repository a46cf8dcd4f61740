"""Things cut out by clicks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import chelsea

from softfeat.imaging.colour import P3_PRIMARIES, rgb_profile
from softfeat.imaging.photo import Photo
from softfeat.segmenter import OpenPhoto, Segmenter
from softfeat.selection import (
    Cutout,
    Selector,
    colour_of,
    cut_out,
    feather_border,
    shift_border,
)
from tests.helpers.photos import picture, write_checkpoint


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    file = write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt", clicks=True)
    return Segmenter(file, size=48)


@pytest.fixture(scope="module")
def opened(segmenter: Segmenter) -> OpenPhoto:
    return segmenter.open(picture())


def disc(radius: float = 12) -> NDArray[np.float32]:
    y, x = np.mgrid[:60, :80]
    return (radius + 0.5 - np.hypot(x - 40, y - 30)).clip(0, 1).astype(np.float32)


def test_clicks_are_taken_at_their_word(opened: OpenPhoto) -> None:
    include, exclude = [(10, 10), (70, 50)], [(40, 30)]
    matte = opened.select(include, exclude)
    assert (matte.shape, matte.dtype) == ((60, 80), np.float32)
    assert 0 <= matte.min() <= matte.max() <= 1
    small = opened.select(include, exclude, preview=True)
    assert small.shape == (36, 48)
    for x, y in include:
        assert small[y * 36 // 60, x * 48 // 80] == 1
        assert matte[y, x] > 0.8
    for x, y in exclude:
        assert small[y * 36 // 60, x * 48 // 80] == 0
        assert matte[y, x] < 0.2


def test_a_scribble_is_a_line_through_its_points(opened: OpenPhoto) -> None:
    small = opened.select([[(10, 10), (70, 10), (70, 50)]], preview=True)
    for x, y in ((10, 10), (40, 10), (70, 10), (70, 30), (70, 50)):
        assert small[y * 36 // 60, x * 48 // 80] == 1


def test_a_click_twice_is_a_click(opened: OpenPhoto) -> None:
    once = opened.select([(10, 10)], [(70, 50)], preview=True)
    np.testing.assert_array_equal(once, opened.select([(10, 10)], [(70, 50)], preview=True))
    floats = opened.select([(10.4, 10.2)], [np.array([70, 50])], preview=True)
    np.testing.assert_array_equal(once, floats)


def test_answers_do_not_depend_on_earlier_questions(segmenter: Segmenter) -> None:
    clicks: dict[str, Any] = {"include": [(10, 10), (30, 20)], "exclude": [(70, 50)]}
    fresh = segmenter.open(picture()).select(**clicks, preview=True)
    asked = segmenter.open(picture())
    asked.select([(10, 10)])
    asked.select([(10, 10)], [(70, 50)])
    asked.select([(10, 10)], [(70, 50)], box=(0, 0, 40, 40))
    np.testing.assert_array_equal(asked.select(**clicks, preview=True), fresh)
    # One more click costs one more answer.
    answered = len(asked.selector._answers)
    asked.select(clicks["include"], [*clicks["exclude"], (5, 50)])
    assert len(asked.selector._answers) == answered + 1


def test_specks_and_small_holes_are_left_out(
    opened: OpenPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's answer is a block with a hole and a speck."""
    ids = opened.selector.superpixels  # (36,48)
    block = np.zeros(ids.shape, bool)
    block[8:30, 8:34] = True
    hole, speck = ids[18, 20], ids[4, 44]
    answer = np.zeros(ids.max() + 1, np.float32)
    answer[np.unique(ids[block])] = 1
    answer[hole], answer[speck] = 0, 1
    monkeypatch.setattr(Selector, "_probability", lambda *_: answer.copy())

    def ids_of(x: int, y: int) -> tuple[float, float]:
        return x * 80 / 48 + 0.5, y * 60 / 36 + 0.5

    def chosen(**marks: Any) -> NDArray[np.bool_]:
        lists = [[np.array([m]) for m in marks.get(k, [])] for k in ("include", "exclude")]
        return opened.selector._selected(*lists, None, None)

    clean = chosen(include=[ids_of(10, 10)])
    assert clean[hole]
    assert not clean[speck]
    assert clean[ids[10, 10]]
    # What the user has clicked on stays as it is.
    said = chosen(include=[ids_of(44, 4)], exclude=[ids_of(20, 18)])
    assert not said[hole]
    assert said[speck]
    # What touches the border of the photo is no hole.
    answer[:] = 1
    answer[ids[0, 0]] = 0
    assert not chosen()[ids[0, 0]]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_or_nothing_is_an_answer(
    opened: OpenPhoto, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    count = len(opened.selector.features)
    monkeypatch.setattr(Selector, "_probability", lambda *_: np.full(count, value, np.float32))
    assert (opened.select() == value).all()


def test_few_answers_are_remembered(segmenter: Segmenter) -> None:
    opened = segmenter.open(picture())
    for x in range(0, 80, 4):
        for y in range(0, 60, 4):
            opened.select([(x, y)], preview=True)
    assert len(opened.selector._answers) <= 256


def test_a_mask_of_either_size_is_the_same_hint(opened: OpenPhoto) -> None:
    large = np.zeros((60, 80))
    large[20:40, 20:60] = 1
    small = np.asarray(
        Image.fromarray(large.astype(np.float32)).resize((48, 36), Image.Resampling.BOX)
    )
    one = opened.select(mask=large, preview=True)
    np.testing.assert_allclose(one, opened.select(mask=small, preview=True), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": [(80, 1)]}, "point 80, 1 is outside the photo of 80x60"),
        ({"exclude": [(1, -1)]}, "point 1, -1 is outside"),
        ({"include": [(float("nan"), 1)]}, "outside"),
        ({"include": [5]}, r"include=5: give points \(x, y\)"),
        ({"include": [(1, 2, 3)]}, "give points"),
        ({"include": ["ab"]}, "give points"),
        ({"include": [[]]}, "give points"),
        ({"box": (0, 0, 81, 5)}, "not inside the photo"),
        ({"box": (5, 5, 5, 9)}, "empty"),
        ({"box": (1, 2, 3)}, "empty"),
        ({"mask": np.zeros((5, 5))}, r"mask \(5, 5\) does not fit"),
        ({"mask": np.full((60, 80), 255)}, "divide by 255"),
        ({"mask": np.full((60, 80), np.nan)}, "does not fit"),
    ],
)
def test_what_is_not_on_the_photo_is_named(
    opened: OpenPhoto, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened.select(**arguments)
    with pytest.raises(ValueError, match=message):
        opened.cutout(**arguments)


def test_weights_without_a_click_network(tmp_path: Path) -> None:
    segmenter = Segmenter(write_checkpoint(tmp_path / "best.ckpt"), size=48)
    opened = segmenter.open(picture())
    with pytest.raises(ValueError, match="answer no clicks: choose weights=general"):
        opened.select([(1, 1)])
    with pytest.raises(ValueError, match="answer no clicks"):
        segmenter.check(opened.selector.original)
    assert len(opened.layers(2).alphas) == 2  # layers need none


def test_another_number_of_layers_uses_the_same_analysis(opened: OpenPhoto) -> None:
    two, three = opened.layers(2), opened.layers(3)
    assert (len(two.alphas), len(three.alphas)) == (2, 3)
    assert opened.analysis is opened.analysis
    assert two.selector is opened.selector
    with pytest.raises(ValueError, match="layers=41"):
        opened.layers(41)


@pytest.mark.parametrize("pixels", [-4, -1, 0, 2, 5])
def test_the_border_moves_by_so_many_pixels(pixels: float) -> None:
    moved = shift_border(disc(), pixels)
    assert np.abs(moved - disc(12 + pixels)).max() < 0.8
    assert np.abs(moved - disc(12 + pixels)).mean() < 0.01


@pytest.mark.parametrize("matte", [np.zeros((9, 9)), np.ones((9, 9))])
@pytest.mark.parametrize("pixels", [-3, 3])
def test_without_a_border_nothing_moves(matte: NDArray, pixels: float) -> None:
    np.testing.assert_array_equal(shift_border(matte.astype(np.float32), pixels), matte)


def test_feathering_keeps_the_middle_of_the_border() -> None:
    edge = np.repeat((np.arange(80) >= 40)[None].astype(np.float32), 60, 0)
    soft = feather_border(edge, 8)
    assert soft[30, 20] == pytest.approx(0, abs=1e-3)
    assert soft[30, 60] == pytest.approx(1, abs=1e-3)
    assert soft[30, 39] + soft[30, 40] == pytest.approx(1, abs=1e-3)
    # A Gaussian of 4 pixels: 84 % one deviation inside.
    assert soft[30, 43] == pytest.approx(0.81, abs=0.03)
    assert feather_border(edge, 0) is edge


def blended() -> tuple[Photo, NDArray[np.float32]]:
    """A red disc with a soft border before green."""
    y, x = np.mgrid[:60, :80]
    alpha = ((15 - np.hypot(x - 40, y - 30)) / 8).clip(0, 1).astype(np.float32)
    red, green = np.array([200, 30, 20]), np.array([10, 180, 60])
    pixels = alpha[..., None] * red + (1 - alpha[..., None]) * green
    return Photo(pixels.round().astype(np.uint8)), alpha


def test_colours_of_the_surroundings_are_taken_out_on_demand() -> None:
    photo, alpha = blended()
    soft = (alpha > 0.3) & (alpha < 0.9)
    clean, kept = cut_out(photo, alpha), cut_out(photo, alpha, decontaminate=False)
    assert np.abs(clean.photo.pixels[soft] - np.array([200.0, 30, 20])).mean() < 12
    np.testing.assert_array_equal(kept.photo.pixels, photo.pixels)
    np.testing.assert_array_equal(clean.photo.alpha, np.rint(alpha * 255))
    behind = clean.over("#0000ff").pixels
    expected = alpha[..., None] * [200, 30, 20] + (1 - alpha[..., None]) * [0, 0, 255]
    assert np.abs(behind - expected).mean() < 3


def test_a_grey_background_keeps_profile_and_bits() -> None:
    profile = rgb_profile("P3", P3_PRIMARIES)
    pixels = np.full((40, 50, 3), 30000, np.uint16)
    part = Cutout(disc()[:40, :50], Photo(pixels, np.full((40, 50), 65535, np.uint16), profile))
    part.photo.alpha[:, :10] = 0  # type: ignore[index]
    white = part.over("white")
    assert (white.pixels.dtype, white.profile, white.alpha) == (np.uint16, profile, None)
    assert (white.pixels[:, :10] == 65535).all()
    assert (white.pixels[:, 10:] == 30000).all()
    blue = part.over("blue")
    assert (blue.pixels.dtype, blue.profile) == (np.uint8, None)
    assert (blue.pixels[:, :10] == (0, 0, 255)).all()


def test_a_photo_behind_covers_the_picture() -> None:
    empty = Cutout(np.zeros((40, 60), np.float32), Photo(
        np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)))  # fmt: skip
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 15:] = 200
    over = empty.over(Photo(stripes)).pixels
    assert over.shape == (40, 60, 3)
    assert (over[:, :25] < 20).all()  # cropped at the centre, so the edge stays in the middle
    assert (over[:, 35:] > 180).all()


@pytest.mark.parametrize(
    ("text", "colour"),
    [("white", (1, 1, 1)), ("#ff0000", (1, 0, 0)), ("#0f0", (0, 1, 0)), ("photo.jpg", None),
     ("", None), ("#12", None)],
)  # fmt: skip
def test_colours_are_read(text: str, colour: tuple[float, ...] | None) -> None:
    assert colour_of(text) == colour
    if colour is None:
        with pytest.raises(ValueError, match="choose a colour"):
            Cutout(np.ones((2, 2), np.float32), Photo(np.zeros((2, 2, 3), np.uint8))).over(text)


def test_a_click_on_a_cat_finds_the_cat() -> None:
    matte = Segmenter("general").open(chelsea()).select([(225, 200)], preview=True)
    assert matte[150:250, 60:250].mean() > 0.9
    assert matte[20:100, 400:440].mean() < 0.1

"""What the page shows."""

import numpy as np
import pytest

from softfeat.app.choices import KINDS, OVERLAYS, VIEWS, Background, View
from softfeat.app.pictures import backdrop, behind, draw, hex_colour, over, thumbnails
from softfeat.app.work import Work
from softfeat.imaging.photo import Photo


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("overlays", [(), OVERLAYS])
def test_every_view(layered: Work, view: View, overlays: tuple[str, ...]) -> None:
    for _ in range(2):
        picture = draw(layered, view, Background(), overlays)
        assert (picture.shape, picture.dtype) == ((36, 48, 3), np.uint8)
        layered.click(24, 18)


def test_a_view_before_there_are_layers(work: Work) -> None:
    picture = draw(work, "photo", Background(), ["features"])
    np.testing.assert_array_equal(picture, work.small)
    assert (draw(work, "layers", Background("white")) == 255).all()


def test_all_layers_show_the_photo(layered: Work) -> None:
    shown = draw(layered, "layers", Background("black")).astype(int)
    assert np.abs(shown - layered.small).mean() < 2
    layered.show([])
    assert not draw(layered, "layers", Background("black")).any()


def test_marks_are_drawn(work: Work) -> None:
    work.click(10, 10)
    work.click(40, 30, include=False)
    picture = draw(work, "photo", Background())
    assert tuple(picture[10, 10]) == (255, 255, 255)  # the plus
    assert picture[26, 40, 0] > picture[26, 40, 1]  # red around the minus


@pytest.mark.parametrize("kind", KINDS)
def test_every_background(work: Work, kind: str) -> None:
    photo = Photo(np.full((10, 30, 3), 7, np.uint8))
    background = Background(kind, "#102030", photo)  # type: ignore[arg-type]
    pixels = backdrop(background, 36, 48)
    assert pixels.shape == (36, 48, 3)
    expected = {"black": 0, "white": 255, "colour": (16, 32, 48), "photo": 7}.get(kind)
    if expected is None:
        assert set(np.unique(pixels)) == {205, 255}
        assert behind(background) is None
    else:
        assert (pixels == np.uint8(expected)).all()
    work.click(24, 18)
    assert draw(work, "cut-out", background).shape == (36, 48, 3)


def test_a_background_that_is_missing() -> None:
    with pytest.raises(ValueError, match="choose a photo for the background"):
        behind(Background("photo"))
    with pytest.raises(ValueError, match="no colour"):
        behind(Background("colour", "/etc/passwd"))


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("#ff8800", "#ff8800"),
        ("red", "#ff0000"),
        ("rgb(1,2,3)", "#010203"),
        ("rgba(254.6, 0, 300, 0.5)", "#ff00ff"),
    ],
)
def test_colours_of_browsers(text: str, colour: str) -> None:
    assert hex_colour(text) == colour


def test_over() -> None:
    behind, front = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 200, np.uint8)
    assert over(behind, front, np.float32([[1, 0.5]]))[0, :, 0].tolist() == [200, 100]


def test_thumbnails(layered: Work) -> None:
    pictures = thumbnails(layered, layered.entries)
    assert len(pictures) == len(layered.entries)
    assert pictures[0].shape == (36, 48, 3)

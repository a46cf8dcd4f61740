import numpy as np
import pytest

from softfeat.imaging.naming import layer_names
from softfeat.imaging.photo import Photo


def test_places_and_colours() -> None:
    photo = np.zeros((60, 600, 3), np.uint8)
    photo[:, :200], photo[:, 200:400], photo[30:, 400:] = (120, 75, 45), (30, 70, 180), 255
    alphas = np.zeros((5, 60, 600), np.float32)
    alphas[0, :, :200] = alphas[1, :, 200:400] = alphas[2, 30:, 400:] = alphas[3, :30, 400:] = 1
    assert layer_names(Photo(photo), alphas) == [
        "1 left, brown",
        "2 centre, blue",
        "3 bottom right, white",
        "4 top right, black",
        "5 empty",
    ]


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((250, 10, 10), "red"),
        ((20, 160, 30), "green"),
        ((255, 230, 40), "yellow"),
        ((150, 150, 152), "grey"),
        ((128, 40, 150), "purple"),
    ],
)
def test_colours(colour: tuple[int, int, int], name: str) -> None:
    photo = np.full((32, 32, 3), colour, np.uint8)
    assert layer_names(Photo(photo), np.ones((1, 32, 32), np.float32)) == [f"1 centre, {name}"]


def test_transparent_parts_have_no_place() -> None:
    pixels = np.full((30, 90, 3), (30, 70, 180), np.uint8)
    own = np.zeros((30, 90), np.uint8)
    own[20:, 60:] = 255
    layers = np.stack([np.ones(own.shape), np.zeros(own.shape)]).astype(np.float32)
    assert layer_names(Photo(pixels, own), layers) == ["1 bottom right, blue", "2 empty"]

"""Draws docs/pictures/clicks.jpg: python docs/draw_clicks.py. The photos are scikit-image's."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.data import astronaut, chelsea, coffee

from softfeat import Segmenter
from softfeat.imaging.documents import checkerboard
from softfeat.segmenter import OpenPhoto

HEIGHT = 220  # pixels of a row
GREEN, RED = (40, 200, 60), (230, 40, 40)
# A photo, a click on a thing, and a click elsewhere that corrects the answer.
ROWS = (
    (astronaut, [(200, 330)], [(390, 430)]),
    (coffee, [(330, 150)], [(200, 330)]),
    (chelsea, [(225, 200)], [(20, 250)]),
)


def cell(photo: OpenPhoto, include: list, exclude: list) -> Image.Image:
    """The thing before a checkerboard, with its clicks."""
    part = photo.cutout(include, exclude)
    alpha = part.matte[..., None]
    height, width = part.matte.shape
    drawn = alpha * part.photo.pixels + (1 - alpha) * checkerboard(height, width)
    return marked(drawn.round().astype(np.uint8), include, exclude)


def marked(picture: NDArray[np.uint8], include: list, exclude: list) -> Image.Image:
    """A picture of `HEIGHT` pixels with discs at the clicks."""
    scale = HEIGHT / picture.shape[0]
    size = (round(picture.shape[1] * scale), HEIGHT)
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for clicks, colour in ((include, GREEN), (exclude, RED)):
        for x, y in clicks:
            centre = (x * scale, y * scale)
            draw.circle(centre, 6, fill=colour, outline="white", width=2)
    return image


def main() -> None:
    """Draws a row per photo: the photo, its subject, a click, and two clicks."""
    segmenter = Segmenter("general")
    rows = []
    for read, include, exclude in ROWS:
        photo = segmenter.open(read())
        cells = [marked(read(), [], []), cell(photo, [], [])]
        cells += [cell(photo, include, []), cell(photo, include, exclude)]
        rows.append(np.hstack([np.asarray(each) for each in cells]))
    width = max(row.shape[1] for row in rows)
    rows = [
        np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    file = Path(__file__).parent / "pictures" / "clicks.jpg"
    Image.fromarray(np.vstack(rows)).save(file, quality=85)
    print(f"written to {file}")


if __name__ == "__main__":
    main()

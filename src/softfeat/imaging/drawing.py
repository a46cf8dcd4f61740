"""Pictures of labels, superpixels, features and errors, laid out as sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from softfeat.atomic import replaced
from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.sizes import ceil_div

_BORDER = 2  # pixels around each picture of a sheet
_TEXT = 13  # font size in pixels
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def label_colours(labels: Tensor) -> Tensor:
    """Give each label id a fixed colour. CONTRAST is grey and IGNORE is black.

    Args:
        labels: Label maps (B,H,W) int64 with ids in 0..255.

    Returns:
        Pictures (B,3,H,W) in [0,1].
    """
    ids = torch.arange(256, dtype=torch.float64)
    # Steps of the golden ratio give neighbouring ids hues that are far apart.
    hue = (ids * 0.61803398875) % 1  # (256,)
    table = torch.stack([0.55 + 0.4 * torch.cos(2 * torch.pi * (hue - s / 3)) for s in range(3)], 1)
    # Every other group of eight ids is darker.
    table *= (1 - 0.35 * (ids // 8 % 2))[:, None]  # (256,3)
    table[CONTRAST] = 0.5
    table[IGNORE] = 0
    return table.float().to(labels.device)[labels].movedim(-1, 1)


def overlay(image: Tensor, labels: Tensor, strength: float = 0.6) -> Tensor:
    """Draw label colours over photos. The photos are grey, so that the hues are not mixed.

    Args:
        image: Photos (B,3,H,W) in [0,1].
        labels: Label maps (B,H,W) int64 with ids in 0..255.
        strength: Opacity of the colours in [0,1].

    Returns:
        Pictures (B,3,H,W) in [0,1].
    """
    return image.mean(1, keepdim=True) * (1 - strength) + label_colours(labels) * strength


def errors(image: Tensor, predicted: Tensor, label: Tensor) -> Tensor:
    """Draw wrong pixels in red over the grey photo, and darken pixels without a class.

    Args:
        image: Photos (B,3,H,W) in [0,1].
        predicted: Predicted classes (B,H,W) int64.
        label: Label maps (B,H,W) int64.

    Returns:
        Pictures (B,3,H,W) in [0,1].
    """
    grey = image.mean(1, keepdim=True).expand_as(image) * 0.7 + 0.15
    red = grey * 0.3 + image.new_tensor([0.7, 0.02, 0.02]).view(3, 1, 1)
    unknown = (label >= CONTRAST)[:, None]
    picture = torch.where((predicted != label)[:, None], red, grey)
    return torch.where(unknown, grey * 0.25, picture)


def boundaries(image: Tensor, superpixels: Tensor) -> Tensor:
    """Draw the borders of superpixels over photos.

    Args:
        image: Photos (B,3,H,W) in [0,1].
        superpixels: Superpixel maps (B,H,W) of integer ids.

    Returns:
        Pictures (B,3,H,W) in [0,1].
    """
    edge = torch.zeros_like(superpixels, dtype=torch.bool)
    edge[:, :, 1:] |= superpixels[:, :, 1:] != superpixels[:, :, :-1]
    edge[:, 1:] |= superpixels[:, 1:] != superpixels[:, :-1]
    return torch.where(edge[:, None], image.new_tensor([1.0, 0.9, 0.1]).view(3, 1, 1), image)


def sheet(
    columns: Mapping[str, Tensor], classes: Sequence[str] = (), rows: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Arrange pictures in a table, with a row for each image and a title above each column.

    Args:
        columns: Pictures (B,3,H,W) in [0,1] of each column, by title.
        classes: Class names of a legend of the label colours, below the table. If empty, there is
            no legend.
        rows: Texts, written into the first picture of each of the B rows. If empty, there are none.

    Returns:
        Picture (H',W',3) uint8.
    """
    border = (_BORDER,) * 4
    padded = [
        torch.nn.functional.pad(c.detach().cpu().float(), border, value=1.0)
        for c in columns.values()
    ]
    table = torch.cat([torch.cat(list(image), -1) for image in torch.stack(padded, 1)], -2)
    pictures = (table.movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()
    height, width = padded[0].shape[-2:]
    font = ImageFont.load_default(_TEXT)
    if rows:
        canvas = Image.fromarray(pictures)
        draw = ImageDraw.Draw(canvas)
        for index, text in enumerate(rows):
            box = (_BORDER, index * height + _BORDER)
            draw.rectangle((*box, box[0] + font.getlength(text) + 6, box[1] + _TEXT + 4), "black")
            draw.text((box[0] + 3, box[1]), text, "white", font)
        pictures = np.asarray(canvas)
    lines = [_wrapped(title, width - 4, font) for title in columns]
    head = Image.new("RGB", (pictures.shape[1], 4 + (_TEXT + 3) * max(map(len, lines))), "white")
    draw = ImageDraw.Draw(head)
    for index, wrapped in enumerate(lines):
        for number, line in enumerate(wrapped):
            draw.text((index * width + 4, 1 + number * (_TEXT + 3)), line, "black", font)
    parts = [np.asarray(head), pictures]
    if classes:
        parts.append(_legend(classes, pictures.shape[1], font))
    return np.concatenate(parts)


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Writes a picture (H,W,3) to a file in an existing folder, as a whole or not at all."""
    with replaced(path) as partial:
        Image.fromarray(picture).save(partial)


def _wrapped(text: str, width: int, font: _Font) -> list[str]:
    """Break a title into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _legend(classes: Sequence[str], width: int, font: _Font) -> NDArray[np.uint8]:
    """Draw a legend (H,W,3) uint8 of the colours of classes, W = `width`."""
    colours = label_colours(torch.arange(len(classes))[None, None])[0, :, 0].T  # (K,3)
    cell = max(30 + int(font.getlength(name)) for name in classes)
    per_row = max(1, width // cell)
    step = _TEXT + 7
    strip = Image.new("RGB", (width, step * ceil_div(len(classes), per_row) + 4), "white")
    draw = ImageDraw.Draw(strip)
    for index, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        left, top = index % per_row * cell + 4, index // per_row * step + 4
        fill = tuple(int(255 * c) for c in colour)
        draw.rectangle((left, top, left + 14, top + _TEXT), fill)
        draw.text((left + 19, top - 1), name, "black", font)
    return np.asarray(strip)


def confusion_picture(matrix: Tensor, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a confusion matrix, with each row as percentages of its true class.

    Args:
        matrix: Counts (K,K). Rows are true classes, columns are predicted classes.
        classes: Names of the K classes.

    Returns:
        Picture (H,W,3) uint8.
    """
    # Only this function needs matplotlib, which takes long to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = matrix.double().cpu()
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = 2.5 + 0.42 * len(classes)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, col in np.argwhere(shares >= 0.005):
        share = shares[row, col]
        colour = "white" if share > 0.5 else "black"
        axes.text(
            col, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8
        )
    figure.colorbar(image, label="share of the true class", fraction=0.045)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

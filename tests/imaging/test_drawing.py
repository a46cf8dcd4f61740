import numpy as np
import pytest
import torch

from softfeat.imaging.drawing import (
    boundaries,
    confusion_picture,
    errors,
    label_colours,
    overlay,
    sheet,
)


def test_label_colours_differ_and_reserved_ids_have_none() -> None:
    colours = label_colours(torch.arange(256).view(1, 1, 256))
    assert colours.shape == (1, 3, 1, 256)
    assert not colours[..., 255].any()
    assert (colours[..., 254] == 0.5).all()  # CONTRAST is a neutral grey
    assert len({tuple(c.tolist()) for c in colours[0, :, 0, :20].T}) == 20


def test_boundaries_lie_between_superpixels_only() -> None:
    superpixels = torch.zeros(1, 6, 6, dtype=torch.long)
    superpixels[:, :, 3:] = 1
    image = torch.full((1, 3, 6, 6), 0.5)
    changed = (boundaries(image, superpixels) != image).any(1)[0]
    assert changed[:, 3].all()
    assert not changed[:, [0, 1, 2, 4, 5]].any()


def test_sheet_lays_rows_and_columns_out() -> None:
    picture = sheet({"a": torch.zeros(2, 3, 20, 30), "b": torch.ones(2, 3, 20, 30)})
    head = picture.shape[0] - 2 * 24
    assert picture.shape == (head + 2 * 24, 2 * 34, 3)
    assert picture[head + 4, 4, 0] == 0
    assert picture[head + 4, 40, 0] == 255
    assert picture[:head].min() < 128  # the titles


def test_sheet_names_classes_and_rows() -> None:
    columns = {"a": torch.ones(2, 3, 40, 160)}
    plain = sheet(columns)
    legend = sheet(columns, classes=["sky", "road"])
    assert legend.shape[0] > plain.shape[0]
    colours = (label_colours(torch.arange(2)[None, None])[0, :, 0].T * 255).byte().numpy()
    below = legend[plain.shape[0] :].reshape(-1, 3)
    for colour in colours:
        assert (below == colour).all(1).any()
    named = sheet(columns, rows=["first", "second"])
    assert named.shape == plain.shape
    assert not np.array_equal(named, plain)


def test_overlay_keeps_hues_and_ignores() -> None:
    image = torch.rand(1, 3, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    full = overlay(image, labels, strength=1.0)
    torch.testing.assert_close(full, label_colours(labels))
    labels[:] = 255
    shown = overlay(image, labels)
    torch.testing.assert_close(shown, (image.mean(1, keepdim=True) * 0.4).expand_as(shown))


def test_errors_are_red_where_wrong_and_dark_without_a_class() -> None:
    image = torch.full((1, 3, 1, 4), 0.5)
    predicted, label = torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 255, 254]]])
    right, wrong, ignored, contrast = errors(image, predicted, label)[0, :, 0].T
    assert right[0] == right[1]
    assert wrong[0] > wrong[1] + 0.3
    assert ignored.max() < 0.2
    assert torch.equal(contrast, ignored)


@pytest.mark.parametrize("classes", [1, 3, 25])
def test_confusion_picture_shows_shares_of_rows(classes: int) -> None:
    matrix = torch.eye(classes, dtype=torch.int64) * 7
    picture = confusion_picture(matrix, [f"class {i}" for i in range(classes)])
    assert picture.ndim == 3
    assert picture.dtype == np.uint8
    empty = confusion_picture(torch.zeros_like(matrix), [f"class {i}" for i in range(classes)])
    assert not np.array_equal(picture, empty)

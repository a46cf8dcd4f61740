import torch

from src.callbacks.pictures import boundaries, label_colours, sheet


def test_label_colours_differ_and_ignore_is_black() -> None:
    colours = label_colours(torch.arange(256).view(1, 1, 256))
    assert colours.shape == (1, 3, 1, 256)
    assert not colours[..., 255].any()
    assert len({tuple(c.tolist()) for c in colours[0, :, 0, :20].T}) == 20


def test_boundaries_lie_between_superpixels_only() -> None:
    superpixels = torch.zeros(1, 6, 6, dtype=torch.long)
    superpixels[:, :, 3:] = 1
    image = torch.full((1, 3, 6, 6), 0.5)
    changed = (boundaries(image, superpixels) != image).any(1)[0]
    assert changed[:, 3].all()
    assert not changed[:, [0, 1, 2, 4, 5]].any()


def test_sheet_lays_rows_and_columns_out() -> None:
    columns = [torch.zeros(2, 3, 5, 7), torch.ones(2, 3, 5, 7)]
    picture = sheet(columns)
    assert picture.shape == (2 * 9, 2 * 11, 3)
    assert picture[4, 4, 0] == 0
    assert picture[4, 15, 0] == 255

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.models.test_time_views import Views, _starts


def blocks(image: Tensor) -> Tensor:
    """Compute scores at a fourth of the resolution, like a head."""
    return F.avg_pool2d(image, 4, ceil_mode=True) * 5


def centred(image: Tensor) -> Tensor:
    """Compute scores that depend on the position in the picture and on its size."""
    place = torch.linspace(0, 1, image.shape[-1]).expand(image[:, :1].shape)
    return torch.cat([place, image[:, :1]], 1)


def test_one_view_is_what_the_model_gives() -> None:
    image = torch.rand(2, 3, 24, 32)
    assert torch.equal(Views()(blocks, image), blocks(image))


def test_flips_are_averaged() -> None:
    image = torch.rand(1, 3, 24, 32)
    expected = (centred(image).softmax(1) + centred(image.flip(-1)).softmax(1).flip(-1)) / 2
    result = Views(flip=True)(centred, image)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(Views(flip=True)(centred, image.flip(-1)).flip(-1), expected)


def test_scales_are_averaged_at_the_photos_size() -> None:
    image = torch.rand(1, 3, 24, 32)
    half = F.interpolate(image, (12, 16), mode="bilinear", align_corners=False)
    enlarged = F.interpolate(centred(half).softmax(1), (24, 32), mode="bilinear")
    expected = (centred(image).softmax(1) + enlarged) / 2
    torch.testing.assert_close(Views(scales=(1.0, 0.5))(centred, image), expected)


def test_windows_cover_every_pixel_and_join_without_a_trace() -> None:
    image = torch.rand(1, 3, 40, 56)

    def pointwise(part: Tensor) -> Tensor:
        assert part.shape[-2:] == (16, 24)
        return part * 5

    result = Views(window=(16, 24))(pointwise, image)
    torch.testing.assert_close(result, (image * 5).softmax(1))


def test_a_window_larger_than_the_photo_is_the_photo() -> None:
    image = torch.rand(1, 3, 10, 12)
    result = Views(window=(64, 64))(lambda part: part, image)
    torch.testing.assert_close(result, image.softmax(1))


@pytest.mark.parametrize(("length", "window"), [(10, 10), (10, 4), (33, 8), (7, 20), (9, 1)])
def test_starts(length: int, window: int) -> None:
    starts = _starts(length, window)
    covered = {i for s in starts for i in range(s, min(s + window, length))}
    assert covered == set(range(length))
    assert all(b - a <= max(1, window // 2) for a, b in pairwise(starts))
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)


@pytest.mark.parametrize(
    "options",
    [{"scales": ()}, {"scales": (0.0,)}, {"window": (0, 4)}, {"window": 256}, {"scales": 1.0}],
)
def test_nonsense_is_refused(options: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"views\."):
        Views(**options)  # type: ignore[arg-type]

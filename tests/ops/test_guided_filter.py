import pytest
import torch
from torch import Tensor

from softfeat.ops.guided_filter import guided_filter, guided_slopes


def reference(features: Tensor, image: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the filter of He et al. 2013 and its slopes pixel by pixel. Borders are reflected."""
    pad = (radius,) * 4
    guide = torch.nn.functional.pad(image[None], pad, mode="reflect")[0]
    values = torch.nn.functional.pad(features[None], pad, mode="reflect")[0]
    channels, height, width = features.shape
    size = 2 * radius + 1
    slope, offset = torch.zeros(channels, 3, height, width), torch.zeros(channels, height, width)
    for y in range(height):
        for x in range(width):
            window = guide[:, y : y + size, x : x + size].flatten(1)
            mean = window.mean(1)
            covariance = window @ window.T / size**2 - torch.outer(mean, mean)
            inverse = torch.linalg.inv(covariance + eps * torch.eye(3))
            for c in range(channels):
                p = values[c, y : y + size, x : x + size].flatten()
                a = inverse @ (window @ p / size**2 - mean * p.mean())
                slope[c, :, y, x], offset[c, y, x] = a, p.mean() - a @ mean
    slope = torch.nn.functional.pad(slope, pad, mode="reflect")
    offset = torch.nn.functional.pad(offset[None], pad, mode="reflect")[0]
    result, slopes = torch.zeros_like(features), torch.zeros(channels, 3, height, width)
    for y in range(height):
        for x in range(width):
            a = slope[..., y : y + size, x : x + size].mean((-2, -1))
            slopes[..., y, x] = a
            b = offset[..., y : y + size, x : x + size].mean((-2, -1))
            result[:, y, x] = a @ image[:, y, x] + b
    return result, slopes


def test_it_is_the_guided_filter() -> None:
    image, features = torch.rand(2, 3, 9, 11), torch.randn(2, 5, 9, 11) * 3
    result = guided_filter(features, image, kernel_size=5, eps=0.01)
    for i in range(2):
        expected, slopes = reference(features[i], image[i], radius=2, eps=0.01)
        torch.testing.assert_close(result[i], expected, rtol=1e-3, atol=1e-3)
        found = guided_slopes(features, image, kernel_size=5, eps=0.01)[i]
        torch.testing.assert_close(found, slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("subsample", [1, 2])
def test_chunks_change_nothing(chunk: int, subsample: int) -> None:
    image, features = torch.rand(1, 3, 20, 24), torch.randn(1, 7, 20, 24)
    options = {"kernel_size": 7, "subsample": subsample}
    torch.testing.assert_close(
        guided_filter(features, image, chunk=chunk, **options),
        guided_filter(features, image, chunk=7, **options),
    )


def test_a_step_that_the_photo_shares_stays_and_noise_goes() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1
    clean = image[:, :1] * 4 - 2
    noisy = clean + torch.randn(1, 1, 32, 32) * 0.5
    filtered = guided_filter(noisy, image, kernel_size=9, eps=1e-3)
    assert (filtered - clean).abs().mean() < 0.4 * (noisy - clean).abs().mean()
    edge = filtered[..., 16].mean() - filtered[..., 15].mean()
    assert edge > 3.5


def test_constant_features_stay() -> None:
    result = guided_filter(torch.full((1, 2, 16, 16), 3.0), torch.rand(1, 3, 16, 16))
    torch.testing.assert_close(result, torch.full((1, 2, 16, 16), 3.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 5), (1, 7), (3, 3)])
@pytest.mark.parametrize("subsample", [1, 4])
def test_photos_smaller_than_the_window(size: tuple[int, int], subsample: int) -> None:
    image, features = torch.rand(1, 3, *size), torch.randn(1, 2, *size)
    result = guided_filter(features, image, kernel_size=21, subsample=subsample)
    assert result.shape == features.shape
    assert result.isfinite().all()


def test_half_precision_comes_back_in_float32() -> None:
    image, features = torch.rand(1, 3, 16, 16), torch.randn(1, 2, 16, 16)
    half = guided_filter(features.half(), image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, guided_filter(features, image), rtol=1e-2, atol=1e-2)


def test_images_of_a_batch_do_not_meet() -> None:
    image, features = torch.rand(2, 3, 12, 12), torch.randn(2, 2, 12, 12)
    both = guided_filter(features, image)
    torch.testing.assert_close(both[1:], guided_filter(features[1:], image[1:]))


def test_a_guide_of_another_range_is_refused() -> None:
    features = torch.rand(1, 2, 8, 8)
    with pytest.raises(ValueError, match="divide by 255"):
        guided_filter(features, torch.rand(1, 3, 8, 8) * 255)
    with pytest.raises(ValueError, match="divide by 255"):
        guided_filter(features, torch.ones(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="kernel_size=0"):
        guided_filter(features, torch.rand(1, 3, 8, 8), kernel_size=0)
    with pytest.raises(ValueError, match="upsample the features"):
        guided_filter(features, torch.rand(1, 3, 16, 16))


def test_the_defaults_of_both_functions_are_the_same_filter() -> None:
    image, features = torch.rand(1, 3, 13, 12), torch.randn(1, 2, 13, 12)
    expected, slopes = reference(features[0], image[0], radius=5, eps=0.01)  # as in MATLAB
    torch.testing.assert_close(guided_filter(features, image)[0], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(guided_slopes(features, image)[0], slopes, rtol=1e-3, atol=1e-3)


def test_a_window_of_one_pixel_changes_nothing() -> None:
    image, features = torch.rand(1, 3, 6, 7), torch.randn(1, 2, 6, 7)
    torch.testing.assert_close(guided_filter(features, image, kernel_size=1), features)
    slopes = guided_slopes(features, image, kernel_size=1)
    torch.testing.assert_close(slopes, torch.zeros(1, 2, 3, 6, 7), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("kernel_size", 10_000), ("eps", 0.0), ("eps", 1.5e6), ("subsample", 0), ("subsample", 10_000),
     ("chunk", 0)],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"guided_filter\.{name}={value}"):
        guided_filter(torch.rand(1, 2, 8, 8), torch.rand(1, 3, 8, 8), **{name: value})


def test_a_small_eps_and_a_guide_that_rounding_left_outside_are_accepted() -> None:
    image, features = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8)
    image[0, :, 0, 0], image[0, :, 4, 4] = 1 + 5e-4, -5e-4  # such as a resized photo
    assert guided_filter(features, image, eps=1e-4).isfinite().all()
    for value in (1.01, -0.01):
        image[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="divide by 255"):
            guided_filter(features, image)


def test_features_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in batch"):
        guided_filter(torch.rand(2, 2, 8, 8), torch.rand(1, 3, 8, 8))

import pytest
import torch
from torch.nn import functional as F

from softfeat.ops.pixels import pyramid_at_pixels, sample_pixels


def label_map() -> torch.Tensor:
    """Create three images: with four labels (one is CONTRAST), with two labels, without labels."""
    label = torch.full((3, 6, 8), 255)
    label[0, :, :6] = torch.tensor([0, 9, 254, 3, 0, 0])
    label[1, :3], label[1, 3:] = 4, 200
    return label


def test_pixels_have_the_labels_that_were_drawn(device: str) -> None:
    label = label_map().to(device)
    pixels, labels = sample_pixels(label, 3, 50, 20)
    assert pixels.shape == labels.shape == (3, 20, 150)
    assert pixels.min() >= 0
    assert pixels.max() < 48
    found = label.flatten(1).gather(1, pixels.flatten(1)).view_as(labels)
    drawn_at_all = labels != 255
    assert torch.equal(found[drawn_at_all], labels[drawn_at_all])
    by_class = labels.view(3, 20, 3, 50)
    assert (by_class == by_class[..., :1]).all()
    for image, classes in ((0, 3), (1, 2)):
        for repetition in range(20):
            drawn = labels[image, repetition][drawn_at_all[image, repetition]]
            assert len(drawn.unique()) == classes
            assert len(drawn) == classes * 50
    assert not drawn_at_all[2].any()


def test_draws_are_fair() -> None:
    pixels, labels = sample_pixels(label_map()[:1], 3, 100, 2000)
    # three of four labels are drawn, so each is in 3/4 of the repetitions
    share = torch.stack([(labels[0, :, ::100] == c).any(1).float().mean() for c in (0, 9, 254, 3)])
    torch.testing.assert_close(share, torch.full((4,), 0.75), rtol=0, atol=0.05)
    # all pixels of label 9 (column 1) are drawn equally often
    counts = pixels[labels == 9].bincount(minlength=48)
    column = counts.view(6, 8)[:, 1] / counts.sum()
    torch.testing.assert_close(column, torch.full((6,), 1 / 6), rtol=0, atol=0.01)


def test_draws_differ_between_repetitions_and_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = sample_pixels(label_map(), 3, 50, 2)[0]
    torch.manual_seed(1)
    assert torch.equal(sample_pixels(label_map(), 3, 50, 2)[0], first)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_draws_follow_their_generator_alone() -> None:
    draws = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        draws.append(sample_pixels(label_map(), 3, 20, 4, generator))
    for first, second, other in zip(*draws, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("sizes", [[(6, 8)], [(3, 4), (2, 3), (1, 1)]])
def test_features_are_those_of_the_upsampled_map(sizes: list[tuple[int, int]], device: str) -> None:
    pyramid = [torch.randn(2, 5, *s, device=device, requires_grad=True) for s in sizes]
    pixels = torch.randint(0, 48, (2, 3, 7), device=device)
    features = pyramid_at_pixels(pyramid, pixels, (6, 8))
    full = torch.cat(
        [F.interpolate(x, (6, 8), mode="bilinear", align_corners=False) for x in pyramid], 1
    )
    for image in range(2):
        for place, pixel in zip(
            features[image].flatten(0, 1), pixels[image].flatten().tolist(), strict=True
        ):
            torch.testing.assert_close(place, full[image, :, pixel // 8, pixel % 8])
    direction = torch.randn_like(features)
    flat = full.flatten(2).mT.gather(1, pixels.flatten(1)[..., None].expand(-1, -1, full.shape[1]))
    expected = torch.autograd.grad(flat.view_as(features), pyramid, direction)
    for found, other in zip(
        torch.autograd.grad(features, pyramid, direction), expected, strict=True
    ):
        torch.testing.assert_close(found, other)


def test_gradcheck() -> None:
    pyramid = [torch.randn(1, 2, s, s, dtype=torch.float64, requires_grad=True) for s in (3, 1)]
    pixels = torch.tensor([[0, 5, 5, 24]])
    assert torch.autograd.gradcheck(lambda *p: pyramid_at_pixels(p, pixels, (5, 5)), pyramid)


def test_a_single_pixel_of_a_single_class() -> None:
    pixels, labels = sample_pixels(label_map()[1:2], num_classes=1, num_samples=1, repetitions=1)
    assert pixels.shape == labels.shape == (1, 1, 1)
    assert label_map()[1].flatten()[pixels.item()] == labels.item()


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_classes", 0), ("num_classes", 257), ("num_samples", 0), ("num_samples", 1_500_000),
     ("repetitions", 0), ("repetitions", 1_500_000)],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"model\.sample_pixels\.{name}={value}"):
        sample_pixels(label_map(), **{name: value})


def test_the_last_pixel_of_a_label_can_be_drawn_and_none_after_it() -> None:
    label = torch.tensor([[[1, 1, 2, 2]]])
    pixels, labels = sample_pixels(label, 2, 200, 5)
    assert pixels[labels == 1].unique().tolist() == [0, 1]
    assert pixels[labels == 2].unique().tolist() == [2, 3]

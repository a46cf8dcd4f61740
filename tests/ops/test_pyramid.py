import resource
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from softfeat.ops.pyramid import pooling_weights, pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_mean

B, S = 2, 7
STATM = Path("/proc/self/statm")
SIZES = {
    "powers of two": ((32, 32), [(16, 16), (8, 8), (4, 4), (2, 2)]),
    "odd sizes": ((23, 37), [(12, 19), (5, 7), (1, 3)]),
    "one cell": ((9, 4), [(1, 1)]),
    "full resolution": ((8, 8), [(8, 8)]),
    "finer than the image": ((6, 5), [(13, 9)]),
}


def case(name: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    size, levels = SIZES[name]
    superpixels = torch.randint(0, S - 1, (B, *size))  # one superpixel has no pixels
    superpixels[0, 0, 0], superpixels[1, -1, -1] = -1, S
    return [torch.randn(B, 3 + i, *hw, dtype=dtype) for i, hw in enumerate(levels)], superpixels


def reference(pyramid: list[torch.Tensor], superpixels: torch.Tensor) -> torch.Tensor:
    size = superpixels.shape[1:]
    full = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in pyramid]
    return superpixel_mean(torch.cat(full, 1), superpixels, S)[0]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_equals_pooling_of_the_upsampled_map(
    name: str, dtype: torch.dtype, tolerance: float, device: str
) -> None:
    pyramid, superpixels = case(name, dtype)
    pyramid, superpixels = [x.to(device) for x in pyramid], superpixels.to(device)
    inputs = [x.clone().requires_grad_() for x in pyramid]
    means, counts = pyramid_superpixel_mean(inputs, superpixels, S)
    expected_inputs = [x.clone().requires_grad_() for x in pyramid]
    expected = reference(expected_inputs, superpixels)
    torch.testing.assert_close(means, expected, rtol=0, atol=tolerance)
    assert torch.equal(
        counts,
        superpixel_mean(pyramid[0][:, :1].new_zeros(B, 1, *superpixels.shape[1:]), superpixels, S)[
            1
        ],
    )

    direction = torch.randn_like(means)
    means.backward(direction)
    expected.backward(direction)
    for x, y in zip(inputs, expected_inputs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=10 * tolerance)


def test_gradient() -> None:
    pyramid, superpixels = case("odd sizes", torch.float64)
    inputs = [x.requires_grad_() for x in pyramid]
    assert torch.autograd.gradcheck(
        lambda *x: pyramid_superpixel_mean(x, superpixels, S)[0], inputs
    )


def test_weights_made_beforehand_give_the_same() -> None:
    pyramid, superpixels = case("odd sizes", torch.float32)
    weights = pooling_weights(superpixels, S, [tuple(x.shape[2:]) for x in pyramid])
    ready, _ = pyramid_superpixel_mean(pyramid, superpixels, S, weights)
    built, _ = pyramid_superpixel_mean(pyramid, superpixels, S)
    assert torch.equal(ready, built)


@pytest.mark.parametrize("empty", [False, True])
def test_padded_weights_give_the_same(empty: bool, device: str) -> None:
    pyramid, superpixels = case("odd sizes", torch.float64)
    superpixels = torch.full_like(superpixels, -1) if empty else superpixels
    pyramid, superpixels = [x.to(device) for x in pyramid], superpixels.to(device)
    sizes = [tuple(x.shape[2:]) for x in pyramid]
    results = []
    for padded in (False, True):
        weights = pooling_weights(superpixels, S, sizes, torch.float64, padded)
        inputs = [x.clone().requires_grad_() for x in pyramid]
        means, _ = pyramid_superpixel_mean(inputs, superpixels, S, weights)
        means.square().sum().backward()
        results.append([means, *(x.grad for x in inputs)])
    for plain, padded_too in zip(*results, strict=True):
        torch.testing.assert_close(plain, padded_too, rtol=1e-12, atol=1e-12)


def squares(size: int, side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return rows // side * -(-size // side) + columns // side


def test_padded_weights_of_all_batches_are_alike() -> None:
    sizes = [(32, 32), (16, 16), (8, 8), (4, 4)]
    regular = squares(64, 8)
    astride = regular.roll((3, 1), (0, 1))  # squares that straddle cells and the border
    shapes = []
    for superpixels in (regular, astride):
        batch = superpixels.expand(2, -1, -1)
        levels = pooling_weights(batch, 64, sizes, padded=True)
        shapes.append([[tensor.shape for tensor in level] for level in levels])
        entries = [len(level.cells) for level in pooling_weights(batch, 64, sizes)]
        for level, count in zip(levels, entries, strict=True):
            assert count < len(level.cells) < 4 * count
            assert level.starts.diff().max() < 3 * level.starts.diff().float().mean()
    assert shapes[0] == shapes[1]


def test_scattered_superpixels_are_left_unpadded() -> None:
    superpixels = torch.randint(0, 4, (1, 64, 64))  # each depends on nearly every cell
    plain, padded = (pooling_weights(superpixels, 4, [(32, 32)], padded=p) for p in (False, True))
    for tensor, same in zip(plain[0], padded[0], strict=True):
        assert torch.equal(tensor, same)


def test_weights_of_a_superpixel_add_up_to_its_pixels() -> None:
    _, superpixels = case("odd sizes", torch.float32)
    counts = torch.stack([(superpixels == s).sum((1, 2)) for s in range(S)], 1).flatten()
    for level in pooling_weights(superpixels, S, SIZES["odd sizes"][1]):
        ends = torch.cat([level.starts[1:], torch.tensor([len(level.weights)])])
        sums = [level.weights[a:b].sum() for a, b in zip(level.starts, ends, strict=True)]
        torch.testing.assert_close(torch.stack(sums), counts.float())


def test_without_any_superpixel_means_are_zero() -> None:
    pyramid, superpixels = case("powers of two", torch.float32)
    inputs = [x.requires_grad_() for x in pyramid]
    means, counts = pyramid_superpixel_mean(inputs, torch.full_like(superpixels, -1), S)
    assert not means.any()
    assert not counts.any()
    means.sum().backward()
    assert not inputs[0].grad.any()  # type: ignore[union-attr]


def test_half_precision_is_pooled_in_float32() -> None:
    pyramid, superpixels = case("odd sizes", torch.bfloat16)
    means, _ = pyramid_superpixel_mean(pyramid, superpixels, S)
    assert means.dtype == torch.float32
    expected, _ = pyramid_superpixel_mean([x.float() for x in pyramid], superpixels, S)
    assert torch.equal(means, expected)


def test_relabelling_and_batch_composition() -> None:
    pyramid, superpixels = case("odd sizes", torch.float64)
    superpixels = superpixels.clamp(0, S - 1)
    means, _ = pyramid_superpixel_mean(pyramid, superpixels, S)
    order = torch.randperm(S)
    moved, _ = pyramid_superpixel_mean(pyramid, order[superpixels], S)
    torch.testing.assert_close(moved[:, order], means)
    alone, _ = pyramid_superpixel_mean([x[1:] for x in pyramid], superpixels[1:], S)
    torch.testing.assert_close(alone, means[1:])


@pytest.mark.parametrize("at_hand", [True, False])
def test_compiled_equals_eager(at_hand: bool) -> None:
    pyramid, superpixels = case("powers of two", torch.float32)
    sizes = SIZES["powers of two"][1]
    weights = pooling_weights(superpixels, S, sizes) if at_hand else None
    leaves = [x.clone().requires_grad_() for x in pyramid]
    other = [x.clone().requires_grad_() for x in pyramid]

    def run(*x: torch.Tensor) -> torch.Tensor:
        return pyramid_superpixel_mean(x, superpixels, S, weights)[0].square().sum()

    run(*leaves).backward()
    torch.compile(run)(*other).backward()
    for x, y in zip(leaves, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.skipif(not STATM.is_file(), reason="reads the memory in use from Linux")
def test_weights_leave_nothing_in_memory() -> None:
    """torch's product of sparse matrices leaks a megabyte per batch. This one must not."""

    def megabytes() -> float:
        return int(STATM.read_text().split()[1]) * resource.getpagesize() / 1e6

    rows, columns = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    superpixels = (rows // 10 * 22 + columns // 10).clamp(max=499).expand(4, -1, -1)
    levels = [(112, 112), (56, 56), (28, 28), (14, 14)]
    for _ in range(10):
        pooling_weights(superpixels, 500, levels)
    before = megabytes()
    for _ in range(60):
        pooling_weights(superpixels, 500, levels)
    assert megabytes() - before < 20

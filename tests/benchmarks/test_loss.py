import torch

from benchmarks.loss import Sides, loss, plain_npair_loss
from benchmarks.tables import markdown
from softfeat.ops.npair import npair_loss

SMALL = {
    "batch_size": 2,
    "image_size": [32, 40],
    "num_superpixels": 30,
    "dim": 8,
    "num_classes": 2,
    "num_samples": 20,
    "repetitions": 2,
}


def test_the_plain_loss_is_the_loss() -> None:
    features, labels = torch.randn(2, 9, 4), torch.randint(0, 3, (2, 9))
    torch.testing.assert_close(
        plain_npair_loss(features, labels),
        npair_loss(features, labels, "symmetric", "pairs"),
        rtol=1e-4,
        atol=1e-4,
    )


def test_both_ways_of_the_sampled_pixels_have_one_gradient() -> None:
    sides = Sides(**SMALL)  # type: ignore[arg-type]
    gradients = []
    for way in (sides.over_pixels, sides.over_pixels_plainly):
        sides.forget()
        torch.manual_seed(3)
        way()
        gradients.append([level.grad.clone() for level in sides.pyramid])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_the_tables_are_complete() -> None:
    result = loss(repeats=1, curves={"dim": [4], "num_superpixels": [10]}, **SMALL)
    assert result["rows"][0]["pairs"] == "1,800"
    assert result["rows"][2]["pairs"] == "6,400"
    published, ours = result["tables"]["Table 1 of the paper, with what was measured"]
    assert published["pairs an image, as printed"] == "6,400"
    assert published["pairs an image, compared"] == "3,200"
    assert ours["complexity, as printed"] == "O(30^2) + O(1280)"
    assert [row["sampled pixels, ms"] != "" for row in result["tables"]["What it depends on"]] == [
        True,
        False,
    ]
    assert "superpixels" in markdown(result | {"machine": {}})

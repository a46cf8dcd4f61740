import pytest
import torch
from torch.nn import functional as F

from softfeat.models.extractor import BottleneckExtractor
from softfeat.models.heads import Decoder, LinearProbe, head_inputs


def inputs(levels: int = 3, size: tuple[int, int] = (50, 70)) -> list[torch.Tensor]:
    extractor = BottleneckExtractor(
        widths=[8, 16, 16, 16][:levels], blocks=[1] * levels, dim=4 * levels
    )
    with torch.no_grad():
        return head_inputs(*extractor.pyramid_and_low(torch.rand(2, 3, *size)))


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("size", [(50, 70), (33, 31), (8, 8)])
@pytest.mark.parametrize("head", [Decoder, LinearProbe])
def test_scores_have_a_fourth_of_the_photos_size(
    head: type, levels: int, size: tuple[int, int]
) -> None:
    given = inputs(levels, size)
    scores = head([x.shape[1] for x in given], 5)(given)
    assert scores.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))


def test_inputs_are_at_most_a_fourth_of_the_photo() -> None:
    assert [tuple(x.shape[1:]) for x in inputs(4, (48, 64))] == [
        (8, 12, 16), (4, 12, 16), (4, 12, 16), (4, 6, 8), (4, 3, 4),
    ]  # fmt: skip


def test_the_probe_is_the_linear_map_of_the_enlarged_features() -> None:
    given = inputs(4, (64, 64))
    probe = LinearProbe([x.shape[1] for x in given], 3).eval()
    for norm in probe.norms:
        norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    size = given[1].shape[-2:]
    joined = torch.cat([F.interpolate(x, size, mode="bilinear") for x in given[1:]], 1)
    means = torch.cat([n.running_mean for n in probe.norms])  # type: ignore[misc]
    spreads = torch.cat([(n.running_var + n.eps).sqrt() for n in probe.norms])  # type: ignore
    joined = (joined - means.view(-1, 1, 1)) / spreads.view(-1, 1, 1)
    weight = torch.cat([m.weight for m in probe.maps], 1)  # type: ignore[misc]
    bias = torch.stack([m.bias for m in probe.maps]).sum(0)  # type: ignore[misc]
    torch.testing.assert_close(probe(given), F.conv2d(joined, weight, bias), rtol=1e-4, atol=1e-5)


def test_nothing_is_carried_back_to_the_inputs_norms() -> None:
    given = inputs(3)
    head = Decoder([x.shape[1] for x in given], 4)
    assert not [p for n in head.norms for p in n.parameters()]
    head(given).sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_the_scale_of_the_inputs_does_not_matter() -> None:
    given = inputs(3)
    head = Decoder([x.shape[1] for x in given], 4)
    first = head(given)
    second = head([given[0] * 100, *given[1:]])
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2)

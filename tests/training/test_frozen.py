import torch
from torch.testing import assert_close

from softfeat.models.extractor import BottleneckExtractor
from softfeat.training.frozen import FrozenFeatures
from softfeat.training.hard_segmentation import HardSegmentationModule


def network(level_norm: float = 0.0, weight: float = 0.0) -> BottleneckExtractor:
    torch.manual_seed(0)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8, level_norm=level_norm)
    with torch.no_grad():
        extractor.stem[0].weight += weight
    return extractor


def test_the_identity_is_that_of_weights_and_hyperparameters() -> None:
    names = [FrozenFeatures(network(*options)).identity for options in ((), (), (0.5,), (0.0, 1.0))]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_they_are_what_the_head_reads() -> None:
    """In eval mode and without gradients, whatever the mode of the extractor."""
    extractor, image = network().train(), torch.rand(2, 3, 16, 16)
    maps = FrozenFeatures(extractor).to(torch.device("cpu"))(image)
    assert not any(m.requires_grad for m in maps)
    for first, second in zip(maps, HardSegmentationModule(3, extractor).inputs(image), strict=True):
        assert_close(first, second)

import pytest
import torch
from torch import Tensor, nn

from softfeat.models.extractor import BottleneckExtractor
from softfeat.models.flops import model_size
from softfeat.training.hard_segmentation import HardSegmentationModule


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.extractor = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.extractor(image).movedim(1, -1))


def test_multiplications_and_additions_of_a_photo() -> None:
    # 8x10 outputs of 8 channels, each from 3x3x3 inputs; then 2 channels from 8
    expected = 2 * 8 * 10 * (8 * 27 + 2 * 8) / 1e9
    assert model_size(Model(), (16, 20))["model/gflops"] == pytest.approx(expected)


def test_parameters_of_the_whole_model() -> None:
    model = Model()
    model.extractor.requires_grad_(False)
    size = model_size(model, (8, 8))
    assert size["model/parameters"] == 3 * 9 * 8 + 8 + 8 + 8 + 8 * 2 + 2
    assert size["model/trainable_parameters"] == 8 * 2 + 2


def test_the_model_is_left_as_it_was() -> None:
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model_size(model, (8, 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_system_costs_what_its_convolutions_do(frozen: bool) -> None:
    extractor = BottleneckExtractor()
    model = HardSegmentationModule(5, extractor=extractor) if frozen else extractor
    gflops = model_size(model, (50, 70))["model/gflops"]
    counted = []

    def count(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        counted.append(2 * output.numel() * conv.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 50, 70))
    assert gflops == pytest.approx(sum(counted) / 1e9)

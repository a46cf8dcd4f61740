"""The benchmark of a training step, with tiny settings."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import train_step as module
from benchmarks.photos import photo_batch
from benchmarks.step import Way, use_plain_layers
from benchmarks.tables import markdown
from benchmarks.train_step import Floor, _Operators, time_by_part, time_floor, train_step
from softfeat.data.datamodule import SegmentationData
from softfeat.models.convolutions import ConvolutionSequence, ReLU6, SameConv2d
from softfeat.models.extractor import EfficientNetExtractor
from softfeat.ops.npair import npair_loss
from tests.helpers.steps import OPTIMIZER, tiny_extractor, tiny_step


def test_photos_repeat_beyond_four() -> None:
    images, superpixels = photo_batch(5, (24, 32), 8)
    assert images.shape == (5, 3, 24, 32)
    assert superpixels.shape == (5, 24, 32)
    assert torch.equal(images[0], images[4])
    assert 0 <= images.min() < images.max() <= 1
    assert superpixels.min() == 0


@pytest.mark.parametrize(
    "way", [Way(full_map=True), Way(channels_last=False), Way(bf16=True), Way(keep=True)]
)
def test_all_ways_compute_the_same_step(way: Way) -> None:
    expected, actual = tiny_step().gradients(), tiny_step(way).gradients()
    tolerance = 0.2 if way.bf16 else 1e-4
    for name, value in expected.items():
        assert (actual[name] - value).abs().max() <= tolerance * value.abs().max(), name


def test_keep_turns_recomputation_off() -> None:
    assert tiny_step().extractor.recompute > 0
    assert tiny_step(Way(keep=True)).extractor.recompute == 0


def test_a_step_trains() -> None:
    step = tiny_step()
    before = step.forward()[0]
    for _ in range(20):
        step()
    assert step.forward()[0] < before
    assert all(p.grad is None for p in step.extractor.parameters())


def test_the_time_of_every_operator_has_a_part() -> None:
    seconds = time_by_part(tiny_step(), repeats=1)
    assert set(seconds) == {
        "convolution, forward", "convolution, backward", "batch norm", "ReLU, addition",
        "pooling", "loss", "optimiser", "other",
    }  # fmt: skip
    assert all(s > 0 for s in seconds.values())


def test_layers_of_pytorch_compute_the_same_step() -> None:
    extractor = EfficientNetExtractor(level_channels=[4, 4, 4, 4, 4], top_down=8).double()
    own, plain = copy.deepcopy(extractor), extractor
    use_plain_layers(plain)
    kinds = {type(module) for module in plain.modules()}
    assert nn.ReLU6 in kinds
    assert not kinds & {ReLU6, SameConv2d, ConvolutionSequence}
    x = torch.rand(2, 3, 33, 32, dtype=torch.float64)
    for network in (own, plain):
        sum(level.square().sum() for level in network.pyramid(x)).backward()  # type: ignore[union-attr]
    own_parameters, parameters = own.named_parameters(), dict(plain.named_parameters())
    for name, parameter in own_parameters:
        torch.testing.assert_close(parameter.grad, parameters[name].grad)


def test_operations_and_bytes_of_operators() -> None:
    x = torch.randn(2, 6, 8, 10, requires_grad=True)
    kernels = torch.randn(6, 1, 3, 3, requires_grad=True)
    matrix = torch.randn(5, 7)
    with _Operators() as operators:
        F.conv2d(x, kernels, padding=1, groups=6).sum().backward()
        matrix @ matrix.T
    flops = [count for count, _ in operators.counts if count]
    convolution = 2 * 2 * 6 * 8 * 10 * 9
    assert flops == [convolution, 2 * convolution, 2 * 5 * 7 * 5]
    assert operators.counts[-1][1] == matrix.nbytes * 2 + 4 * 25


def test_the_floor_takes_the_larger_time_of_each_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def floor(flops_per_second: float, bytes_per_second: float) -> Floor:
        monkeypatch.setattr(
            module, "_machine_rates", lambda _: (flops_per_second, bytes_per_second)
        )
        return time_floor(tiny_step())

    endless = float("inf")
    by_arithmetic, by_memory, by_both = floor(1, endless), floor(endless, 1), floor(1, 1)
    assert by_arithmetic.bytes_per_second == endless
    assert by_arithmetic.memory == by_memory.arithmetic == 0
    assert max(by_arithmetic.seconds, by_memory.seconds) < by_both.seconds
    assert by_both.seconds < by_arithmetic.seconds + by_memory.seconds
    # The optimiser at least reads and writes every parameter and its two moments.
    assert by_memory.bytes > 6 * sum(p.nbytes for p in tiny_step().extractor.parameters())


def test_own_layers_are_compared_with_those_of_pytorch(
    tiny_data: Callable[..., SegmentationData],
) -> None:
    extractor = EfficientNetExtractor(level_channels=[4, 4, 4, 4, 4], top_down=8)
    result = train_step(
        extractor, npair_loss, OPTIMIZER, tiny_data(), repeats=1, steps=2, rounds=1, compiled=False
    )
    assert [row["step"] for row in result["rows"]] == [*module.WAYS, *module.PLAIN]
    assert "time, native, PyTorch's layers, in % of native" in result["ratios"]
    parts = {row["part"] for row in result["tables"]["Where the native step's time goes"]}
    assert parts >= {"depthwise convolution", "convolution, forward", "convolution, backward"}


def test_the_suite(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand details")

    monkeypatch.setattr(torch, "compile", lambda function, mode: no_compiler)
    data = tiny_data()
    result = train_step(tiny_extractor(), npair_loss, OPTIMIZER, data, repeats=1, steps=3, rounds=2)
    assert result["name"] == "train_step"
    assert [row["step"] for row in result["rows"]] == list(module.WAYS)
    assert result["settings"]["native, compiled"] == "left out (RuntimeError: no C++ compiler)"
    assert result["settings"]["largest difference of the weights after either loop"] == "0.0e+00"
    for kind in ("", ", bf16", ", all kept"):
        assert result["ratios"][f"time, full map / native{kind}"]["median"] > 0
        assert result["ratios"][f"memory, full map / native{kind}"]["median"] > 1
    assert result["ratios"]["time, Lightning in % of bare PyTorch"]["median"] > 0
    assert 0 <= result["ratios"]["waiting for data, % of Lightning's time"]["max"] <= 100
    *parts, floor, native = (row["ms"] for row in result["tables"]["The floor"])
    assert floor == pytest.approx(sum(parts), abs=0.02)
    assert native > 0
    text = markdown(result | {"machine": {}})
    assert "\nThe floor:\n" in text
    assert "| bare PyTorch |" in text

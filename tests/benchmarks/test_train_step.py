"""The benchmark of a training step, with tiny settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import train_step as module
from benchmarks.photos import photo_batch
from benchmarks.step import Way
from benchmarks.tables import markdown
from benchmarks.train_step import time_by_part, time_floor, train_step
from softfeat.data.datamodule import SegmentationData
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


def test_the_floor_counts_the_traffic() -> None:
    step = tiny_step()
    floor = time_floor(step, 1.0)
    assert floor.gflops == 3
    # The optimiser at least reads and writes every parameter and its two moments.
    parameters = sum(p.nbytes for p in step.extractor.parameters())
    assert floor.bytes > 6 * parameters
    assert floor.seconds == floor.arithmetic + floor.memory


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

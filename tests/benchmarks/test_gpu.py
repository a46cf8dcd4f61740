"""The parts of the GPU benchmark that need no GPU, with tiny settings on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import gpu as module
from benchmarks.gpu import compare, gpu, images_per_second, speeds, training_loops
from benchmarks.step import Recipe, Step, Way
from benchmarks.tables import markdown
from softfeat.data.datamodule import SegmentationData
from softfeat.models.extractor import Extractor
from softfeat.ops.npair import npair_loss
from softfeat.training.soft_features import SoftFeatureModule
from tests.helpers.steps import OPTIMIZER, tiny_extractor, tiny_step


def run(extractor: Extractor, data: SegmentationData, **options: Any) -> dict[str, Any]:
    settings = {"repeats": 1, "steps": 1, "loop_steps": 2, "loop_rounds": 1, "largest_batch": 4}
    settings |= {"compiled": False, "device": "cpu"}
    return gpu(extractor, npair_loss, OPTIMIZER, data, **(settings | options))


def test_the_error_without_a_gpu_names_the_remedy(
    tiny_data: Callable[..., SegmentationData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"needs a CUDA GPU.*suite=train_step"):
        run(tiny_extractor(), tiny_data(), device="cuda")


def test_what_needs_no_gpu_runs_on_the_cpu(tiny_data: Callable[..., SegmentationData]) -> None:
    result = run(tiny_extractor(), tiny_data(pack=True))
    checks = {row["check"]: row["result"] for row in result["tables"]["Checks"]}
    assert checks["eager, as float64 on the CPU"] == "within bounds"
    assert checks["bf16, as float64 on the CPU"] == "within bounds"
    assert checks["eager, the host waits for the GPU"] == "not looked for without a GPU"
    assert [row["step"] for row in result["rows"]] == ["eager, contiguous", "eager", "bf16"]
    assert result["tables"]["Batches, eager, bf16"][0]["batch"] == 2
    loops = result["tables"]["Loops, the loader included"]
    ways = ("eager, bf16", "passes in one CUDA graph, bf16")  # the CPU trains alike in both
    assert [row["loop"] for row in loops] == [
        f"{loop}, {way}" for way in ways for loop in ("bare PyTorch", "Lightning")
    ]
    for row in loops:  # 60,000 steps take as many minutes as one takes milliseconds
        assert row["60000 steps, minutes"] == pytest.approx(row["ms (median)"], abs=0.06)
    assert set(result["ratios"]) == {
        "time, eager, contiguous / eager", "time, eager, contiguous / bf16",
        *(f"waiting for data, % of the time of Lightning, {way}" for way in ways),
    }  # fmt: skip
    assert result["name"] == "gpu_cpu"
    assert "\nChecks:\n" in markdown(result | {"machine": {}})


def test_a_wrong_or_broken_step_is_reported_and_the_others_go_on() -> None:
    def make(way: Way, to: str = "", double: bool = False) -> Step:
        if way.bf16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        step = tiny_step(way)
        if not double:
            with torch.no_grad():
                step.extractor.stem[0].weight[:3] += 1  # type: ignore[index, operator]
        return step

    rows = compare(make, ["bf16", "eager"])
    assert [row["result"] for row in rows] == [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate", "out of bounds",
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1  # the columns of one table
    seconds, failures = speeds(make, {"a": Way(bf16=True), "b": Way()}, 2, 1, on_gpu=False)
    assert list(seconds) == ["b"]
    assert len(seconds["b"]) == 2
    assert list(failures) == ["a"]


def test_a_broken_loop_is_reported_and_the_others_go_on(
    tiny_data: Callable[..., SegmentationData],
) -> None:
    def make(cuda_graph: bool) -> SoftFeatureModule:
        if cuda_graph:
            raise RuntimeError("out of memory\nand details")
        network = tiny_extractor()
        return SoftFeatureModule(network, optimizer=OPTIMIZER, num_superpixels=20)

    seconds, waits, failures = training_loops(make, tiny_data(), steps=2, rounds=2)
    assert {name: len(values) for name, values in seconds.items()} == {
        "bare PyTorch, eager, bf16": 2, "Lightning, eager, bf16": 2,
    }  # fmt: skip
    assert list(waits) == ["eager, bf16"]
    assert failures == {
        "loops, passes in one CUDA graph, bf16": "left out (RuntimeError: out of memory)"
    }


def test_batches_grow_until_memory_is_full_or_nothing_is_gained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def make(batch: int) -> Step:
        if batch == 16:
            raise torch.OutOfMemoryError
        sizes.append(batch)
        return tiny_step()

    # Every batch takes one second, so that throughput doubles.
    monkeypatch.setattr(module, "times_in_turn", lambda sides, repeats: {"run": [1.0]})
    rows = images_per_second(make, 4, 64, repeats=1, steps=1)
    assert rows[-1] == {"batch": 16, "images/s": "out of memory"}
    assert [row["images/s"] for row in rows[:-1]] == [4.0, 8.0]
    # The time grows with the batch, so that nothing is gained.
    monkeypatch.setattr(module, "times_in_turn", lambda sides, repeats: {"run": [sizes[-1] / 4]})
    assert len(images_per_second(make, 4, 64, repeats=1, steps=1)) == 2


def test_the_reference_does_not_need_the_gpu() -> None:
    recipe = Recipe(tiny_extractor(), npair_loss, OPTIMIZER, (32, 48), 12)
    step = module._step(recipe, "cuda", 2, Way(), to="cpu", double=True)
    assert isinstance(step.optimizer, torch.optim.SGD)
    assert step.batch["image"].dtype == torch.float64
    assert {p.dtype for p in step.extractor.parameters()} == {torch.float64}
    assert {p.dtype for p in recipe.extractor.parameters()} == {torch.float32}


@pytest.mark.gpu
def test_on_a_gpu(tiny_data: Callable[..., SegmentationData]) -> None:
    result = run(tiny_extractor(), tiny_data(pack=True), device="cuda")
    assert {row["result"] for row in result["tables"]["Checks"]} == {"within bounds", "none"}

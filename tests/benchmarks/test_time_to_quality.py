from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from benchmarks.pair_auc import pair_auc_of_sets
from benchmarks.tables import markdown
from benchmarks.time_to_quality import compare, time_to, time_to_quality
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder, Mixture
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import sample_pixels
from softfeat.training.classifier import SpacesClassifier


def test_runs_are_measured_stored_and_drawn(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()
    run = partial(
        time_to_quality,
        data=data,
        extractor=partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        loss=partial(npair_loss, negative="symmetric", balance="pairs"),
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        samplings={
            "superpixels": None,
            "pixels": partial(sample_pixels, num_samples=5, repetitions=2),
        },
        short=0.5,
        halvings=2,
        folder=tmp_path / "runs",
        plot=tmp_path / "plot.png",
    )
    ticks = iter(range(10**6))  # every reading of the clock adds a second
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    result = run(seeds=[0, 1], seconds=8)
    assert [row["steps"] for row in result["rows"]] == [
        *("2", "4", "8"), *("1", "2", "4"), *("2", "4", "8")
    ]  # fmt: skip
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert "superpixels" in markdown(result | {"machine": {}})

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("benchmarks.time_to_quality.train_for", refuse)
    assert run(seeds=[0, 1], seconds=8) == result
    alone = run(seeds=[0, 1], seconds=8, samplings={"superpixels": None})
    assert not alone["tables"]
    assert not alone["ratios"]
    for change in (
        {"seconds": 16},
        {"halvings": 1},
        {"short": 0.25},
        {"seeds": [2]},
        {"optimizer": partial(torch.optim.AdamW, lr=1e-3)},
        {"classifier_weight": 1.0},
        {"superpixel_loss": partial(npair_loss, across_images=True)},
        {"samplings": {"superpixels": None, "pixels": partial(sample_pixels, num_samples=6)}},
    ):
        with pytest.raises(AssertionError, match="trained again"):
            run(**{"seeds": [0, 1], "seconds": 8} | change)


def test_either_side_has_a_classifier_in_addition_to_the_loss(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, modules = SpacesClassifier.loss, {}

    def recorded(self: SpacesClassifier, features: torch.Tensor, *others: torch.Tensor) -> Any:
        modules[features.shape[:2]] = self
        return loss(self, features, *others)

    monkeypatch.setattr(SpacesClassifier, "loss", recorded)
    data = tiny_data()
    result = time_to_quality(
        data=data,
        extractor=partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        loss=npair_loss,
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        samplings={
            "superpixels": None,
            "pixels": partial(sample_pixels, num_samples=5, repetitions=2),
        },
        seeds=[0],
        seconds=0.2,
        short=0.5,
        halvings=0,
        folder=tmp_path,
        plot=tmp_path / "plot.png",
        classifier_weight=0.5,
        class_weights="frequency",
    )
    assert "0.5" in result["settings"]["classifier"]
    batch, count = data.batch_size, data.superpixels.count
    assert set(modules) == {(batch, count), (batch * 2, 3 * 5)}
    for module in modules.values():
        assert module.map.weight.any()  # which starts from zeros
        assert module.class_weights.unique().numel() > 1


@pytest.mark.parametrize("held_out", [[], ["camvid", "msrc_v2"]])
def test_a_mixture_is_scored_set_by_set(
    held_out: list[str], mixture_root: Path, tmp_path: Path
) -> None:
    layouts = dict.fromkeys(held_out or ("camvid", "msrc_v2", "idd_lite"), Folder)
    data = SegmentationData(
        partial(Mixture, layouts=layouts | {"idd_lite": Folder}, held_out=held_out),
        mixture_root,
        tmp_path / "cache",
        (32, 40),
        2,
        Superpixels(count=20),
        steps_per_epoch=2,
        num_workers=0,
    )
    result = time_to_quality(
        data=data,
        extractor=partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        loss=npair_loss,
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        samplings={"superpixels": None, "pixels": partial(sample_pixels, num_samples=5)},
        seeds=[0],
        seconds=1,
        short=0.5,
        halvings=0,
        folder=tmp_path / "runs",
        plot=tmp_path / "plot.png",
        name="mixed",
    )
    assert result["name"] == "mixed"
    assert "probe mIoU" not in result["rows"][0]
    (run,) = result["runs"]["superpixels"]
    assert run[-1]["pair_auc"] == pytest.approx(mean(run[-1][name] for name in layouts))
    assert result["settings"]["scored on"] == ", ".join(layouts)
    each = result["tables"]["Pair AUC of each set at the end"]
    assert [row["trained on"] for row in each] == list(result["runs"])
    assert each[0]["msrc_v2"].startswith(f"{run[-1]['msrc_v2']:.3f}")

    # The stored weights are the scored ones.
    stored = {"trained": str(tmp_path / "runs/superpixels_seed0.safetensors")}
    split = "train" if held_out else "val"
    again = pair_auc_of_sets(
        mixture_root, layouts, stored, split, (32, 40), Superpixels(count=20), tmp_path, 0
    )
    trained, untrained, *_ = again["rows"]
    for name in layouts:
        assert float(trained[name]) == pytest.approx(run[-1][name], abs=0.01)
    assert trained["mean"] != untrained["mean"]


def test_a_goal_is_reached_when_no_measurement_falls_below_it_again() -> None:
    run = [{"seconds": s, "auc": auc} for s, auc in ((1.0, 0.9), (2.0, 0.7), (5.0, 0.8))]
    assert time_to(run, 0.75, "auc") == 5
    assert time_to(run, 0.6, "auc") == 1
    assert time_to(run, 0.85, "auc") is None


def test_a_quality_that_is_not_reached_is_no_ratio_of_zero() -> None:
    def run(*scores: float) -> list[dict[str, float]]:
        return [{"seconds": 10.0 * 2**i, "pair_auc": auc} for i, auc in enumerate(scores)]

    good, poor = run(0.8, 0.8, 0.8), run(0.5, 0.5, 0.5)
    theirs = [run(0.5, 0.6, 0.7)] * 3

    def compared(*ours: list[dict[str, float]]) -> tuple[list[str], dict[str, float | None]]:
        runs = {"ours": ours, "short": [poor] * 3, "theirs": theirs}
        rows, ratios = compare(runs, range(3), "ours", "short", ["theirs"])
        (ratio,) = ratios.values()
        return [str(row["after s"]) for row in rows], ratio

    times, ratio = compared(poor, good, good)
    assert times == ["not reached", "10", "10"]
    assert ratio == {"median": 4.0, "min": None, "max": 4.0}
    _, ratio = compared(poor, poor, good)
    assert ratio == {"median": None, "min": None, "max": 4.0}

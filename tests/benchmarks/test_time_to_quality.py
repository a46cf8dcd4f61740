from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from benchmarks.measure import markdown
from benchmarks.pair_auc import pair_auc_of_sets
from benchmarks.time_to_quality import superpixel_probe, time_to, time_to_quality
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder, Mixture
from softfeat.imaging.slic import Superpixels
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import sample_pixels
from softfeat.training.classifier import SpacesClassifier


def test_runs_are_measured_kept_and_drawn(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()
    run = partial(
        time_to_quality,
        data,
        partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        partial(npair_loss, negative="symmetric", balance="pairs"),
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
    ticks = iter(range(10**6))  # every look at the clock is a second
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


def test_either_side_has_a_classifier_beside_the_loss(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, modules = SpacesClassifier.loss, {}

    def recorded(self: SpacesClassifier, features: torch.Tensor, *others: torch.Tensor) -> Any:
        modules[features.shape[:2]] = self
        return loss(self, features, *others)

    monkeypatch.setattr(SpacesClassifier, "loss", recorded)
    data = tiny_data()
    result = time_to_quality(
        data,
        partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        npair_loss,
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
        data,
        partial(BottleneckExtractor, widths=[8, 16], blocks=[1, 1], dim=8),
        npair_loss,
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

    # The kept weights are those that were scored.
    kept = {"trained": str(tmp_path / "runs/superpixels_seed0.safetensors")}
    split = "train" if held_out else "val"
    again = pair_auc_of_sets(
        mixture_root, layouts, kept, split, (32, 40), Superpixels(count=20), tmp_path, 0
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


def test_the_probe_separates_what_a_line_can() -> None:
    labels = torch.randint(0, 3, (300,))
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    features = 1e-3 * (centres[labels] + torch.randn(300, 2)) + 7
    probe = superpixel_probe(features, labels, 3)
    assert (probe(features).argmax(1) == labels).float().mean() > 0.95


def test_the_probe_does_not_mind_how_channels_are_mixed() -> None:
    torch.manual_seed(0)
    plain = torch.randn(2000, 8)
    labels = (plain[:, :3] + 0.3 * torch.randn(2000, 3)).argmax(1)
    # As trained features are: all channels say nearly the same, and the classes are in the rest.
    spreads = torch.tensor([0.01] * 3 + [3.0] * 5)
    mixed = (plain * spreads) @ torch.linalg.qr(torch.randn(8, 8))[0] + 5
    expected = superpixel_probe(plain, labels, 3)(plain).softmax(1)
    found = superpixel_probe(mixed, labels, 3)(mixed).softmax(1)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_the_probe_bears_features_that_are_all_alike() -> None:
    probe = superpixel_probe(torch.full((6, 4), 2.0), torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    shares = probe(torch.full((4,), 2.0)).softmax(0)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3]), atol=1e-3, rtol=0)

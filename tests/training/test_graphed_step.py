"""Replayed training steps compared with ordinary ones; most of it needs a GPU."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation
from softfeat.data.flat_batch import FlatBatch
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import sample_pixels
from softfeat.training.graphed_step import GraphedStep, Step, can_replay
from softfeat.training.sampled_pixels import SampledPixelModule
from softfeat.training.soft_features import SoftFeatureModule


@pytest.fixture
def data(tiny_data: Callable[..., SegmentationData]) -> SegmentationData:
    return tiny_data(augmentation=Augmentation(), steps_per_epoch=6)


def loader(data: SegmentationData) -> DataLoader[Any]:
    """The training batches, without a trainer."""
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def flat(data: SegmentationData, flat: bool = True) -> SegmentationData:
    """The data as a training makes it for a step that is replayed, or not."""
    data = copy.copy(data)
    data.num_levels, data.flat = 2, flat
    return data


def module(**options: Any) -> SoftFeatureModule:
    torch.manual_seed(0)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 2], dim=32)
    defaults: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "num_superpixels": 20,
        "warmup_steps": 2,
    }
    kind = SampledPixelModule if "sample_pixels" in options else SoftFeatureModule
    return kind(extractor, **defaults | options)


class Steps(pl.Callback):
    """Remembers which kind of step each batch was trained with."""

    def __init__(self) -> None:
        self.seen: list[type] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(type(pl_module.step))


def fit(model: SoftFeatureModule, data: SegmentationData, **options: Any) -> set[type]:
    """Trains; which kinds of steps were used."""
    steps = Steps()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        callbacks=[steps],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, data)
    assert len(steps.seen) == 12
    assert type(model.step) is Step  # a graph's memory is free again
    return set(steps.seen)


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({}, True),
        ({"precision": "bf16-mixed"}, True),
        ({"precision": "16-mixed"}, False),
        ({"device": "cpu"}, False),
        ({"device": "mps"}, False),
        ({"single_device": False}, False),
        ({"accumulate_grad_batches": 2}, False),
    ],
)
def test_when_a_step_can_be_replayed(change: dict[str, Any], possible: bool) -> None:
    settings: dict[str, Any] = {
        "device": "cuda", "single_device": True, "precision": "32-true",
        "accumulate_grad_batches": 1,
    }  # fmt: skip
    assert can_replay(**settings | change) == possible


def test_on_the_cpu_nothing_is_captured(data: SegmentationData) -> None:
    assert fit(module(cuda_graph=True), flat(data), accelerator="cpu") == {Step}


@pytest.mark.parametrize("kind", [Step, GraphedStep])
def test_an_ordinary_batch_is_computed_the_ordinary_way(data: SegmentationData, kind: type) -> None:
    model, expected = module(), module()
    batch = next(iter(loader(flat(data, False))))
    if kind is GraphedStep:
        model.step = GraphedStep(model.losses, model)
        with pytest.warns(UserWarning, match="without the CUDA graph"):
            loss = model.step(batch, 0)["loss"]
    else:
        loss = model.step(batch, 0)["loss"]
    model.backward(loss)
    expected.losses(batch, 0)["loss"].backward()
    for p, q in zip(model.extractor.parameters(), expected.extractor.parameters(), strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("options", "precision", "tolerance"),
    [
        ({}, "32-true", 2e-2),
        ({"loss": partial(npair_loss, balance="classes", across_images=True)},
         "32-true", 2e-2),
        ({"classifier_weight": 1.0, "num_classes": [3],
          "class_weights": torch.tensor([1.0, 2.0, 3.0])}, "32-true", 2e-2),
        ({}, "bf16-mixed", 2e-1),
    ],
)  # fmt: skip
def test_a_replayed_training_is_the_eager_one(
    data: SegmentationData, options: dict[str, Any], precision: Any, tolerance: float
) -> None:
    models = [module(cuda_graph=way, **options) for way in (False, True)]
    for way, model in zip((False, True), models, strict=True):
        seen = fit(model, flat(data, way), accelerator="gpu", precision=precision)
        assert seen == {GraphedStep if way else Step}
    eager, replayed = (model.state_dict() for model in models)
    start = module(**options).state_dict()
    for name, value in eager.items():
        if value.is_floating_point():
            if name in start:
                assert "running" in name or not torch.equal(value, start[name]), name
            error = (value - replayed[name]).abs().max()
            assert error <= tolerance * value.abs().max().clamp(min=0.1), name
        else:  # steps that batch norms have counted: the warm-up is none
            assert torch.equal(value, replayed[name]), name


@pytest.mark.gpu
def test_every_batch_has_its_own_gradients(data: SegmentationData) -> None:
    model = module().cuda()
    batches = [batch.to("cuda") for batch in loader(flat(data))]
    assert all(isinstance(batch, FlatBatch) for batch in batches)
    eager = copy.deepcopy(model)
    model.step = GraphedStep(model.losses, model)
    for batch in batches:
        expected = eager.losses(batch, 0)["loss"]
        eager.zero_grad()
        expected.backward()
        found = model.step(batch, 0)["loss"]
        model.zero_grad()
        model.backward(found)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        for p, q in zip(model.extractor.parameters(), eager.extractor.parameters(), strict=True):
            assert p.grad is not None
            assert (p.grad - q.grad).abs().max() <= 2e-2 * q.grad.abs().max()  # type: ignore[union-attr]


@pytest.mark.gpu
def test_a_batch_of_another_layout_goes_without(data: SegmentationData) -> None:
    model = module().cuda()
    batch = next(iter(loader(flat(data)))).to("cuda")
    model.step = GraphedStep(model.losses, model)
    model.backward(model.step(batch, 0)["loss"])
    expected = [p.grad.clone() for p in model.extractor.parameters() if p.grad is not None]
    for other in (FlatBatch.of({k: v for k, v in batch.to("cpu").items() if k != "pooling"}),
                  dict(batch)):  # fmt: skip
        other = other.to("cuda") if isinstance(other, FlatBatch) else other
        assert not model.step.replays(other)
        model.zero_grad()
        model.backward(model.step(other, 0)["loss"])
        for p, gradient in zip(model.extractor.parameters(), expected, strict=True):
            assert p.grad is not None
            assert (p.grad - gradient).abs().max() <= 2e-2 * gradient.abs().max()


@pytest.mark.gpu
def test_a_step_that_waits_for_the_gpu_is_refused(data: SegmentationData) -> None:
    def waits(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return features[labels != 255].square().mean()

    with pytest.raises(RuntimeError, match=r"model\.cuda_graph=false"):
        fit(module(loss=waits, cuda_graph=True), flat(data), accelerator="gpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        (
            {"sample_pixels": partial(sample_pixels, num_classes=2, num_samples=8, repetitions=2)},
            {},
        ),
        ({}, {"accumulate_grad_batches": 2}),
        ({}, {"precision": "16-mixed"}),
    ],
)
def test_what_cannot_be_replayed_trains_without(
    data: SegmentationData, options: dict[str, Any], trainer: dict[str, Any]
) -> None:
    graph = "sample_pixels" not in options
    model = module(cuda_graph=graph, **options)
    assert fit(model, flat(data, False), accelerator="gpu", **trainer) == {Step}

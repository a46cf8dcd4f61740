"""Replayed steps beside eager ones; with a stand-in for the graph where there is no GPU."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Augmentation
from softfeat.data.flat_batch import FlatBatch
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import sample_pixels
from softfeat.training.graphed_step import GraphedGradients
from softfeat.training.soft_features import SoftFeatureModule


@pytest.fixture
def data(tiny_data: Callable[..., SegmentationData]) -> SegmentationData:
    return tiny_data(augmentation=Augmentation(), steps_per_epoch=6)


def loader(data: SegmentationData, model: SoftFeatureModule, flat: bool = True) -> DataLoader[Any]:
    """Of training, without a trainer."""
    data.prepare_data()
    data.setup("fit")
    data.pool_at(model.extractor.level_sizes(data.image_size), flat)
    return data.train_dataloader()


def module(**options: Any) -> SoftFeatureModule:
    torch.manual_seed(0)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 2], dim=32)
    defaults: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "num_superpixels": 20,
        "total_steps": 12,
        "warmup_steps": 2,
    }
    return SoftFeatureModule(extractor, **defaults | options)


class Graphs(pl.Callback):
    """Which steps had a graph."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.graph is not None)


def fit(model: SoftFeatureModule, data: SegmentationData, **options: Any) -> list[bool]:
    """Trains; whether each step had a graph."""
    graphs = Graphs()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        callbacks=[graphs, *options.pop("callbacks", [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, data)
    assert model.graph is None
    return graphs.seen


class StandIn(GraphedGradients):
    """Does on the CPU what a graph does."""

    def takes(self, batch: Any) -> TypeGuard[FlatBatch]:
        return isinstance(batch, FlatBatch)

    def __call__(self, batch: FlatBatch) -> dict[str, torch.Tensor]:
        losses = self.losses(batch)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(losses["loss"], parameters)
        self._gradients = list(zip(parameters, gradients, strict=True))
        return {name: value.detach() for name, value in losses.items()}


def test_on_the_cpu_nothing_is_captured(data: SegmentationData) -> None:
    assert not any(fit(module(), data, accelerator="cpu"))


@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        ({}, {}),
        ({"classifier_weight": 1.0}, {"gradient_clip_val": 0.01}),
        ({}, {"callbacks": [GradientAccumulationScheduler({1: 2})]}),  # from the second epoch on
    ],
)
def test_replayed_gradients_are_trained_with(
    data: SegmentationData,
    options: dict[str, Any],
    trainer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eager, replayed = module(**options), module(**options)
    fit(eager, copy.copy(data), accelerator="cpu", **copy.deepcopy(trainer))
    monkeypatch.setattr(SoftFeatureModule, "_can_replay", True)
    monkeypatch.setattr(
        SoftFeatureModule, "captured_steps",
        lambda self: StandIn(partial(self.losses, step=0), self),
    )  # fmt: skip
    seen = fit(replayed, copy.copy(data), accelerator="cpu", **trainer)
    accumulates = "callbacks" in trainer
    assert seen == [True] * 6 + [not accumulates] * 6
    start = module(**options).state_dict()
    assert not torch.equal(start["extractor.scale"], eager.state_dict()["extractor.scale"])
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_an_ordinary_batch_is_told_of(data: SegmentationData) -> None:
    model = module()
    batch = next(iter(loader(data, model, flat=False)))
    model.graph = StandIn(partial(model.losses, step=0), model)
    with pytest.warns(UserWarning, match="without the CUDA graph"):
        loss = model.training_losses(batch, 0)["loss"]
    model.backward(loss)
    assert all(p.grad is not None for p in model.extractor.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("options", "precision", "tolerance"),
    [
        ({}, "32-true", 2e-2),
        ({"loss": partial(npair_loss, balance="classes", across_images=True)},
         "32-true", 2e-2),
        ({"classifier_weight": 1.0, "class_weights": "frequency"}, "32-true", 2e-2),
        ({}, "bf16-mixed", 2e-1),
    ],
)  # fmt: skip
def test_a_replayed_training_is_the_eager_one(
    data: SegmentationData, options: dict[str, Any], precision: Any, tolerance: float
) -> None:
    models = [module(cuda_graph=way, **options) for way in (False, True)]
    for way, model in zip((False, True), models, strict=True):
        seen = fit(model, copy.copy(data), accelerator="gpu", precision=precision)
        assert seen == [way] * 12
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
    batches = [batch.to("cuda") for batch in loader(data, model)]
    assert all(isinstance(batch, FlatBatch) for batch in batches)
    eager = copy.deepcopy(model)
    model.graph = model.captured_steps()
    for batch in batches:
        expected = eager.training_losses(batch, 0)["loss"]
        eager.zero_grad()
        eager.backward(expected)
        found = model.training_losses(batch, 0)["loss"]
        model.zero_grad()
        model.backward(found)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        for p, q in zip(model.extractor.parameters(), eager.extractor.parameters(), strict=True):
            assert p.grad is not None
            assert (p.grad - q.grad).abs().max() <= 2e-2 * q.grad.abs().max()  # type: ignore[union-attr]


@pytest.mark.gpu
def test_a_batch_of_another_layout_goes_without(data: SegmentationData) -> None:
    model = module().cuda()
    batch = next(iter(loader(data, model))).to("cuda")
    model.graph = model.captured_steps()
    model.backward(model.training_losses(batch, 0)["loss"])
    expected = [p.grad.clone() for p in model.extractor.parameters() if p.grad is not None]
    for other in (FlatBatch.of({k: v for k, v in batch.to("cpu").items() if k != "pooling"}),
                  dict(batch)):  # fmt: skip
        other = other.to("cuda") if isinstance(other, FlatBatch) else other
        assert model.graph is not None
        assert not model.graph.takes(other)
        model.zero_grad()
        model.backward(model.training_losses(other, 0)["loss"])
        for p, gradient in zip(model.extractor.parameters(), expected, strict=True):
            assert p.grad is not None
            assert (p.grad - gradient).abs().max() <= 2e-2 * gradient.abs().max()


@pytest.mark.gpu
def test_a_step_that_waits_for_the_gpu_is_refused(data: SegmentationData) -> None:
    def waits(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return features[labels != 255].square().mean()

    with pytest.raises(RuntimeError, match=r"model\.cuda_graph=false"):
        fit(module(loss=waits), data, accelerator="gpu")


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
    assert not any(fit(module(**options), data, accelerator="gpu", **trainer))

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.extractor import BottleneckExtractor, load_extractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import sample_pixels
from softfeat.ops.pyramid import pooling_weights
from softfeat.ops.superpixels import superpixel_mean
from softfeat.training.sampled_pixels import SampledPixelModule
from softfeat.training.soft_features import SoftFeatureModule

S = 12


def module(**options: Any) -> SoftFeatureModule:
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    defaults: dict[str, Any] = {
        "loss": npair_loss,
        "optimizer": partial(torch.optim.SGD, lr=1.0),
        "num_superpixels": S,
    }
    return SoftFeatureModule(extractor, **defaults | options)


def batch(size: int = 32) -> dict[str, Any]:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    superpixels = (y // (size // 3)).clamp(max=2) * 4 + x // (size // 4)
    return {
        "image": torch.rand(2, 3, size, size),
        "label": torch.randint(0, 3, (2, size, size)),
        "superpixels": superpixels.expand(2, -1, -1).clone(),
        "path": ["a", "b"],
    }


def test_pooled_features_are_those_of_the_full_map() -> None:
    model, data = module().eval(), batch()
    features, labels = model.superpixel_features(data)
    expected, counts = superpixel_mean(model(data["image"]), data["superpixels"], S)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (labels != 255).all()
    assert labels.shape == counts.shape


def test_gradients_are_those_of_the_full_map() -> None:
    model, data = module(), batch()
    data["pooling"] = pooling_weights(data["superpixels"], S, model.extractor.level_sizes((32, 32)))
    features, labels = model.superpixel_features(data)
    npair_loss(features, labels).backward()
    native = [p.grad.clone() for p in model.extractor.parameters() if p.grad is not None]
    model.zero_grad()
    full, _ = superpixel_mean(model(data["image"]), data["superpixels"], S)
    npair_loss(full, labels).backward()
    for gradient, parameter in zip(native, model.extractor.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


def test_ignored_and_absent_superpixels_have_no_label() -> None:
    model, data = module().eval(), batch()
    data["label"][0][data["superpixels"][0] == 0] = 255
    data["superpixels"][1][data["superpixels"][1] == 11] = -1
    _, labels = model.superpixel_features(data)
    assert labels[0, 0] == 255
    assert labels[1, 11] == 255
    assert (labels[:, 4:8] != 255).all()
    data["label"][:] = 255
    assert (model.superpixel_features(data)[1] == 255).all()


def test_superpixels_of_contrast_train_against_objects_alone() -> None:
    model, data = module(classifier_weight=1.0, num_classes=[3]), batch()
    data["space"] = torch.zeros(2, dtype=torch.long)
    data["label"][:, :, 16:] = 254
    assert 254 in model.superpixel_features(data)[1]
    losses = model.losses(data, 0)
    losses["loss"].backward()
    assert losses["npair"] > 0
    assert losses["cross_entropy"] > 0
    data["label"][:] = 254  # nothing to pull, to push or to name
    model.zero_grad()
    losses = model.losses(data, 0)
    losses["loss"].backward()
    assert losses["loss"] == 0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_step_learns() -> None:
    model, data = module(optimizer=partial(torch.optim.SGD, lr=0.05)), batch()
    optimizer, _ = model.optimizer_and_schedule(15)
    losses = []
    for _ in range(15):
        loss = model.loss(*model.superpixel_features(data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def pixel_module(**options: Any) -> SampledPixelModule:
    draw = partial(sample_pixels, num_classes=2, num_samples=20, repetitions=3)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    return SampledPixelModule(extractor, sample_pixels=draw, num_superpixels=S, **options)


def test_sampled_pixels_depend_on_step_and_seed_only() -> None:
    model, data = pixel_module().eval(), batch()
    features, labels = model.pixel_features(data, 5)
    assert features.shape == (6, 40, 8)
    assert labels.shape == (6, 40)
    assert (labels != 255).all()
    torch.rand(7)
    assert torch.equal(model.pixel_features(data, 5)[0], features)
    assert not torch.equal(model.pixel_features(data, 6)[0], features)
    state = torch.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed() + 1)
        assert not torch.equal(model.pixel_features(data, 5)[0], features)
    assert torch.equal(torch.get_rng_state(), state)
    model.loss(features, labels).backward()
    assert all(p.grad is not None for p in model.extractor.parameters())


def test_sampled_pixels_train_the_classifier_too() -> None:
    model, data = pixel_module(classifier_weight=0.5, num_classes=[2, 3]), batch()
    data["space"] = torch.tensor([0, 1])
    data["label"][0] = data["label"][0] % 2
    losses = model.losses(data, 0)
    assert losses["loss"] == losses["npair"] + 0.5 * losses["cross_entropy"]
    losses["loss"].backward()
    assert model.classifier is not None
    assert model.classifier.map.weight.grad is not None
    with pytest.raises(ValueError, match=r"model\.cuda_graph=false"):
        pixel_module(cuda_graph=True)


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_schedule_is_poly_with_warmup(warmup: int) -> None:
    optimizer, scheduler = module(warmup_steps=warmup).optimizer_and_schedule(10)
    for step in range(11):
        expected = (1 - step / 10) ** 0.9 * min(1, (step + 1) / (warmup + 1))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_a_checkpoint_holds_plain_numbers_only() -> None:
    content: dict[str, Any] = {}
    module().on_save_checkpoint(content)
    assert content["extractor"] == {
        "network": "bottleneck", "widths": [8, 16], "blocks": [1, 1], "dim": 8,
        "readout_scale": 0.01, "level_norm": 0.0,
    }  # fmt: skip


def test_class_weights_without_a_classifier_are_refused() -> None:
    for options in ({"classifier_weight": -1.0}, {"class_weights": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"model\.classifier_weight="):
            module(**options)
    with pytest.raises(ValueError, match=r"needs labels with classes"):
        module(classifier_weight=1.0)


def test_the_encoder_has_a_rate_of_its_own() -> None:
    model = module(encoder_rate=0.25, optimizer=partial(torch.optim.SGD, lr=0.4))
    optimizer, scheduler = model.optimizer_and_schedule(10)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"rest": 0.4, "encoder": 0.1}
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[1]["lr"] == 0.25 * optimizer.param_groups[0]["lr"] < 0.1
    encoder = model.extractor.encoder_parameters()
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == {id(p) for p in encoder}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    (group,) = module().optimizer_and_schedule(10)[0].param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match=r"model\.encoder_rate=-1"):
        module(encoder_rate=-1)


def test_a_checkpoint_from_before_the_modules_were_split_still_loads() -> None:
    """Written by a training with a classifier at commit 24d9404."""
    file = Path(__file__).parents[1] / "golden" / "soft_features_with_classifier.ckpt"
    extractor = load_extractor(file)
    model = SoftFeatureModule(extractor, num_classes=[3], classifier_weight=0.5)
    state = read_checkpoint(file)["state_dict"]
    model.load_state_dict(state)
    for name, value in extractor.state_dict().items():
        assert torch.equal(value, state[f"extractor.{name}"])
    assert model.classifier is not None
    assert model.classifier.map.weight.any()

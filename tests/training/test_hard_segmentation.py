import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from softfeat.data.layouts import Folder, Mixture
from softfeat.models.extractor import BottleneckExtractor, Extractor, load_extractor
from softfeat.training.classifier import rarity
from softfeat.training.hard_segmentation import (
    HardSegmentationModule,
    head_classes,
    load_hard_segmentation,
)
from softfeat.training.soft_features import SoftFeatureModule


def extractor() -> Extractor:
    return BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)


def module(**options: Any) -> HardSegmentationModule:
    defaults: dict[str, Any] = {
        "num_classes": 3,
        "extractor": extractor(),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    return HardSegmentationModule(**defaults | options)


def batch(size: int = 32) -> dict[str, Any]:
    label = torch.randint(0, 3, (2, size, size))
    label[:, :4] = 255
    return {"image": torch.rand(2, 3, size, size), "label": label, "path": ["a", "b"]}


def step(model: HardSegmentationModule, data: dict[str, Any]) -> torch.Tensor:
    model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    optimizer, _ = model.optimizer_and_schedule(10)
    loss = model.training_step(data, 0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def test_a_frozen_extractor_does_not_change_at_all() -> None:
    """Weights and batch-norm statistics, even after train(), as Lightning calls it."""
    model = module()
    before = statistics(model.extractor)
    head_before = statistics(model.head)
    model.train()
    assert model.head.training
    for _ in range(3):
        step(model, batch())
    for name, value in model.extractor.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert any(not torch.equal(v, head_before[k]) for k, v in model.head.state_dict().items())


def test_a_frozen_extractor_is_not_in_the_optimiser_and_has_no_gradient() -> None:
    model = module()
    optimizer, _ = model.optimizer_and_schedule(10)
    ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert ids == {id(p) for p in model.head.parameters()}
    model.train()
    step(model, batch())
    assert all(p.grad is None for p in model.extractor.parameters())


def test_every_batch_norm_of_it_is_in_eval_mode() -> None:
    model = module().train().eval().train()
    norms = [m for m in model.extractor.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)


@pytest.mark.parametrize("end_to_end", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_it_is_in_the_right_mode_from_the_start(
    end_to_end: bool, loaded: bool, tmp_path: Path
) -> None:
    soft = SoftFeatureModule(extractor())
    content: dict[str, Any] = {"state_dict": soft.state_dict()}
    soft.on_save_checkpoint(content)
    torch.save(content, tmp_path / "soft.ckpt")
    network = load_extractor(tmp_path / "soft.ckpt") if loaded else extractor()
    model = module(end_to_end=end_to_end, extractor=network)
    assert all(m.training == end_to_end for m in model.extractor.modules())
    assert all(m.training for m in model.head.modules())


def test_end_to_end_scores_what_it_trains() -> None:
    """Not features that are brought to one length in eval mode only."""
    options: dict[str, Any] = {"widths": [8, 16], "blocks": [1, 1], "dim": 8, "level_norm": 0.75}
    for end_to_end in (False, True):
        model = module(extractor=BottleneckExtractor(**options), end_to_end=end_to_end)
        assert model.extractor.hparams["level_norm"] == (0.0 if end_to_end else 0.75)


def test_end_to_end_trains_it() -> None:
    model = module(end_to_end=True).train()
    before = statistics(model.extractor)
    step(model, batch())
    changed = {k for k, v in model.extractor.state_dict().items() if not torch.equal(v, before[k])}
    assert any("running_mean" in k for k in changed)
    assert any("stages" in k and "weight" in k for k in changed)


def test_stored_inputs_give_what_photos_give() -> None:
    model, data = module().eval(), batch()
    with torch.no_grad():
        stored = {"features": [x.half() for x in model.inputs(data["image"])]}
        torch.testing.assert_close(
            model.batch_scores(stored), model.batch_scores(data), rtol=1e-2, atol=1e-2
        )


def test_a_head_names_the_classes_of_its_data(folder_root: Path) -> None:
    layout = Folder(folder_root)
    names = ["class 0", "class 1", "class 2"]
    assert head_classes(layout) == head_classes(layout, names) == names
    with pytest.raises(ValueError, match=r"3 classes and the model 2"):
        head_classes(layout, names[:2])
    with pytest.raises(ValueError, match=r"class 1.*trained for class 2"):
        head_classes(layout, names[::-1])


def test_a_contrast_class_is_refused(folder_root: Path) -> None:
    with pytest.raises(ValueError, match=r"class 1.* set data\.layout\.contrast=\[\]"):
        head_classes(Folder(folder_root, contrast=["class 1"]))


def test_a_mixture_is_refused(mixture_root: Path) -> None:
    with pytest.raises(ValueError, match="mixture of label spaces"):
        head_classes(Mixture(mixture_root, layouts={"camvid": Folder, "msrc_v2": Folder}))


def test_forward_gives_scores_of_the_photos_size() -> None:
    assert module().eval()(torch.rand(1, 3, 37, 29)).shape == (1, 3, 37, 29)
    assert module().eval().predict(torch.rand(1, 3, 37, 29)).shape == (1, 37, 29)


def test_nothing_to_learn_from_gives_no_gradient_and_no_nan() -> None:
    model, data = module().train(), batch()
    data["label"][:] = 255
    before = [p.clone() for p in model.head.parameters()]
    assert step(model, data) == 0
    for old, new in zip(before, model.head.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_loss_is_the_same_for_mirror_images() -> None:
    """So it draws no class to one side."""
    model = module()
    scores, label = torch.randn(2, 3, 8, 10), torch.randint(0, 3, (2, 32, 40))
    label[0, :5] = 255
    expected = model.loss(scores, label)
    for axis in (-1, -2):
        torch.testing.assert_close(model.loss(scores.flip(axis), label.flip(axis)), expected)


@pytest.mark.parametrize("size", [(32, 40), (31, 37)])
def test_the_loss_is_cross_entropy_with_each_score_for_four_pixels(size: tuple[int, int]) -> None:
    scores, label = torch.randn(2, 3, 8, 10), torch.randint(0, 3, (2, *size))
    label[1, :, :9] = 255
    half = torch.nn.functional.interpolate(scores, (16, -(-size[1] // 2)), mode="bilinear")
    repeated = half.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : size[0], : size[1]]
    expected = torch.nn.functional.cross_entropy(repeated, label, ignore_index=255)
    torch.testing.assert_close(module().loss(scores, label), expected)


def test_rare_classes_weigh_more() -> None:
    weights = rarity(torch.tensor([0.98, 0.02, 0.0]).double())
    expected = torch.tensor([1 / math.log(2), 1 / math.log(1.04), 1 / math.log(1.02)])
    model = module(class_weights=weights)
    torch.testing.assert_close(model.class_weights, expected)
    scores, label = torch.randn(2, 3, 8, 10), torch.randint(0, 3, (2, 32, 40))
    label[1, :, :9] = 255
    half = torch.nn.functional.interpolate(scores, (16, 20), mode="bilinear")
    repeated = half.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = torch.nn.functional.cross_entropy(
        repeated, label, weight=model.class_weights, ignore_index=255
    )
    torch.testing.assert_close(model.loss(scores, label), expected)
    label[:] = 255
    assert model.loss(scores, label) == 0


def test_a_step_learns() -> None:
    model, data = module(optimizer=partial(torch.optim.SGD, lr=0.5)).train(), batch()
    data["label"] = (data["image"][:, 0] * 2).long()
    losses = [step(model, data) for _ in range(15)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("head", ["decoder", "linear"])
def test_a_checkpoint_rebuilds_the_module(head: str, tmp_path: Path) -> None:
    model = module(head=head).eval()
    model.class_names = ["a", "b", "c"]
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "hard.ckpt")
    loaded = load_hard_segmentation(tmp_path / "hard.ckpt")
    assert not loaded.training
    assert loaded.class_names == ["a", "b", "c"]
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(image), model(image))
    # A soft-feature system can go on from it, too.
    assert load_extractor(tmp_path / "hard.ckpt").hparams == model.extractor.hparams


def test_a_soft_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    soft = SoftFeatureModule(extractor())
    content: dict[str, Any] = {"state_dict": soft.state_dict()}
    soft.on_save_checkpoint(content)
    torch.save(content, tmp_path / "soft.ckpt")
    with pytest.raises(ValueError, match="soft features"):
        load_hard_segmentation(tmp_path / "soft.ckpt")


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder or linear"):
        module(head="transformer")

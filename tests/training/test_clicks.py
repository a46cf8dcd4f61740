from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.labels import IGNORE
from softfeat.training.clicks import ClickModule, answer_loss

ROWS, COLUMNS, PIXELS = 8, 8, 4
S = ROWS * COLUMNS


def module(**options: Any) -> ClickModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
        defaults: dict[str, Any] = {
            "optimizer": partial(torch.optim.AdamW, lr=1e-2),
            "num_superpixels": S,
            "channels": 16,
            "layers": 2,
            "clicks": (1, 2),
        }
        return ClickModule(extractor, **defaults | options)


def batch(seed: int = 0, count: int = 4) -> dict[str, Any]:
    """Photos with a bright block on a dark ground."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(S).view(ROWS, COLUMNS)
    ids = ids.repeat_interleave(PIXELS, 0).repeat_interleave(PIXELS, 1).repeat(count, 1, 1)
    label = torch.full((count, ROWS, COLUMNS), 254)
    for each in label:
        y, x = torch.randint(0, 5, (2,), generator=generator).tolist()
        each[y : y + 3, x : x + 3] = 1
    label = label.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
    image = 0.2 + 0.6 * (label == 1)[:, None].float().expand(-1, 3, -1, -1)
    image = image + 0.05 * torch.rand(image.shape, generator=generator)
    space = torch.zeros(count, dtype=torch.int64)
    return {"image": image, "label": label, "superpixels": ids, "space": space, "path": ["a"]}


def test_it_learns_to_answer_clicks() -> None:
    torch.manual_seed(1)
    model = module()
    optimizer = torch.optim.AdamW(model.clicks.parameters(), lr=1e-2)
    first = None
    for step in range(60):
        losses = model.losses(batch(step), step)
        first = first or losses
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert first is not None
    assert first["iou"] < 0.5
    assert losses["iou"] > 0.75


def test_only_the_click_network_learns() -> None:
    model = module()
    model.losses(batch(), 0)["loss"].backward()
    assert all(p.grad is None for p in model.extractor.parameters())
    assert all(p.grad is not None for p in model.clicks.parameters())
    model.train()
    assert not model.extractor.training
    assert model.clicks.training


def test_the_simulated_user_depends_on_seed_and_step_only() -> None:
    model = module()
    torch.manual_seed(3)
    one = model.losses(batch(), 5)
    torch.rand(9)
    again, other = model.losses(batch(), 5), model.losses(batch(), 6)
    assert torch.equal(one["loss"], again["loss"])
    assert not torch.equal(one["loss"], other["loss"])


def test_photos_without_an_object_teach_nothing() -> None:
    model, data = module(), batch()
    data["label"][:] = IGNORE
    losses = model.losses(data, 0)
    assert losses["loss"] == 0
    losses["loss"].backward()
    assert not any(p.grad.any() for p in model.clicks.parameters() if p.grad is not None)


def test_sets_without_a_subject_do_not_teach_the_silent_answer() -> None:
    data = batch()
    both = [
        module(no_subject=spaces, box=0.0, mask=0.0, clicks=(1,)).losses(data, 0)["loss"]
        for spaces in ([], [0])
    ]
    # Without a subject the first of both answers has no loss.
    assert 0 < both[1] < both[0]


def test_loss_is_that_of_a_loop() -> None:
    logits, target = torch.randn(2, 5), torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    area = torch.tensor([[3, 1, 2, 0, 4], [1, 1, 1, 1, 1]])
    loss, iou = answer_loss(logits, target, area)
    for b in range(2):
        entropy = both = either = 0.0
        for score, wanted, pixels in zip(logits[b], target[b], area[b], strict=True):
            p = score.sigmoid()
            entropy += pixels * nn.functional.binary_cross_entropy(p, wanted)
            both += pixels * min(p, wanted)
            either += pixels * max(p, wanted)
        torch.testing.assert_close(iou[b], both / either)
        torch.testing.assert_close(loss[b], entropy / area[b].sum() + 1 - both / either)


@pytest.mark.parametrize("at", [0.0, 40.0, -40.0])
def test_certain_answers_have_finite_gradients(at: float) -> None:
    logits = torch.full((1, 3), at, requires_grad=True)
    loss, _ = answer_loss(logits, torch.tensor([[1.0, 0, 0]]), torch.ones(1, 3))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"clicks": ()}, "model.clicks"),
        ({"clicks": (0,)}, "model.clicks"),
        ({"box": 1.5}, "model.box"),
        ({"box": 0.6, "mask": 0.5}, "model.mask"),
        ({"layers": 0}, "model.layers"),
        ({"channels": 0.5}, "model.channels"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        module(**options)

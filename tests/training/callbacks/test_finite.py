from typing import Any

import pytest
import torch

from softfeat.training.callbacks.finite import StopOnNonFinite


class Trainer:
    global_step = 7


def step(callback: StopOnNonFinite, value: float, name: str) -> None:
    batch: dict[str, Any] = {"path": [name]}
    callback.on_train_batch_end(Trainer(), None, {"loss": torch.tensor(value)}, batch, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_bad_batch_is_named(bad: float) -> None:
    callback = StopOnNonFinite()
    step(callback, 1.0, "good.jpg")
    with pytest.raises(FloatingPointError, match=r"(?s)step 7 .*bad\.jpg.*learning rate"):
        step(callback, bad, "bad.jpg")


def test_batches_between_two_looks_are_remembered() -> None:
    """On a GPU a look waits for the device, so there are few; here only the memory is tried."""
    callback = StopOnNonFinite(every_n_steps=10)
    callback._seen = [
        (i, torch.tensor(float("nan") if i == 3 else 0.0), [f"{i}.jpg"]) for i in range(6)
    ]
    with pytest.raises(FloatingPointError, match=r"(?s)step 3 .*3\.jpg"):
        callback.on_train_epoch_end(Trainer(), None)  # type: ignore[arg-type]

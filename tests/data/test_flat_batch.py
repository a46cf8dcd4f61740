import pickle
from typing import Any

import torch

from softfeat.data.flat_batch import FlatBatch
from softfeat.ops.pyramid import PoolingWeights


def batch(rows: int = 3) -> dict[str, Any]:
    pooling = [PoolingWeights(*(torch.arange(i + n) for i in range(6))) for n in (1, 4)]
    return {
        "image": torch.rand(2, 3, rows, 5),
        "label": torch.randint(0, 255, (2, rows, 5)),
        "nothing": torch.empty(0, 4),
        "scalar": torch.tensor(7.0, dtype=torch.float64),
        "path": ["a", "b"],
        "pooling": pooling,
        "mixed": [torch.tensor([1, 2]), "a name"],
        "native_label": [torch.ones(2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int16)],
    }


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected


def test_everything_is_found_again(device: str) -> None:
    expected = batch()
    flat = FlatBatch.of(expected)
    for copy in (flat, pickle.loads(pickle.dumps(flat)), flat.to(device).to("cpu")):
        assert len(copy) == len(expected)
        assert set(copy) == set(expected)
        for key, value in expected.items():
            assert_same(copy[key], value)


def test_tensors_are_views_of_the_buffer(device: str) -> None:
    flat = FlatBatch.of(batch()).to(device)
    assert flat["pooling"][1].weights.device.type == device
    flat.buffer.zero_()
    assert not flat["image"].any()
    assert not flat["pooling"][1].weights.any()


def test_views_do_not_travel() -> None:
    flat = FlatBatch.of(batch())
    before = len(pickle.dumps(flat))
    assert flat["image"].any()
    assert len(pickle.dumps(flat)) == before


def test_batches_of_equal_shapes_have_one_layout() -> None:
    assert FlatBatch.of(batch()).layout == FlatBatch.of(batch()).layout
    assert FlatBatch.of(batch()).layout != FlatBatch.of(batch(rows=4)).layout


def test_without_tensors_the_buffer_is_empty() -> None:
    flat = FlatBatch.of({"path": ["a"]})
    assert len(flat.buffer) == 0
    assert dict(flat) == {"path": ["a"]}

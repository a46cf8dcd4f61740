import numpy as np
import pytest
import torch
from PIL import Image

from softfeat.imaging.convert import (
    ids_tensor,
    planes_of,
    to_array,
    to_float,
    to_tensor,
    to_uint8,
    to_whole,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_survive_floats(dtype: type) -> None:
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values, dtype)
    assert floats.dtype == dtype
    assert (floats.min(), floats.max()) == (0, 1)
    np.testing.assert_array_equal(to_uint8(floats), values)


def test_arrays_survive_tensors() -> None:
    picture = np.random.default_rng(0).random((5, 6, 3))
    tensor = to_tensor(picture)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 5, 6), torch.float64)
    assert tensor.is_contiguous()
    assert tensor[0, 2, 3, 4] == picture[3, 4, 2]
    np.testing.assert_array_equal(to_array(tensor), picture)


def test_bytes_become_floats_in_tensors() -> None:
    picture = np.asarray(Image.new("RGB", (4, 3), (255, 51, 0)))  # not writable
    expected = torch.tensor([1, 0.2, 0]).view(1, 3, 1, 1).expand(1, 3, 3, 4)
    torch.testing.assert_close(to_tensor(picture), expected)


def test_one_channel_that_is_not_writable_is_copied() -> None:
    picture = np.zeros((4, 3, 1))
    picture.flags.writeable = False
    to_tensor(picture).add_(1)
    assert picture.max() == 0


def test_features_of_a_tensor_go_back_without_a_copy() -> None:
    maps = torch.rand(1, 8, 5, 6)
    assert to_tensor(to_array(maps)).data_ptr() == maps.data_ptr()


def test_ids_keep_their_values() -> None:
    ids = np.array([[0, 40_000]], np.uint16)
    assert ids_tensor(ids).tolist() == [[[0, 40_000]]]
    assert ids_tensor(ids).dtype == torch.int64


def test_shares_become_whole_numbers_as_at_once() -> None:
    shares = np.random.default_rng(0).random((300, 7), np.float32)
    own = np.arange(2100, dtype=np.uint16).reshape(300, 7)
    for most, kind in ((255, np.uint8), (65535, np.uint16), (own, np.uint16)):
        expected = np.rint(shares * np.float32(1) * np.asarray(most, np.float32)).astype(kind)
        actual = to_whole(shares, most, kind)
        assert actual.dtype == kind
        np.testing.assert_array_equal(actual, expected)
    assert to_whole(shares[:0], 255, np.uint8).shape == (0, 7)


def test_planes_are_a_view_of_a_picture() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    planes = planes_of(picture)
    picture[0, 1, 2] = 99
    assert planes.shape == (3, 2, 4)
    assert planes[2, 0, 1] == 99
    picture.flags.writeable = False
    assert planes_of(picture)[2, 0, 1] == 99

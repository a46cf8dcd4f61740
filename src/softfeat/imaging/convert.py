"""Conversions of pictures: (H,W,C) arrays and (1,C,H,W) tensors, uint8 and floats in [0,1]."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_ROWS = 128


def to_float(picture: NDArray[np.uint8], dtype: type[np.floating] = np.float32) -> NDArray:
    """Converts uint8 values 0..255 to floats in [0,1].

    >>> to_float(np.uint8([0, 51, 255])).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return picture.astype(dtype) / dtype(255)


def to_uint8(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Rounds floats in [0,1] to uint8 values 0..255.

    >>> to_uint8(np.array([0, 0.2, 1])).tolist()
    [0, 51, 255]
    """
    return np.rint(picture * np.float32(255)).astype(np.uint8)


def to_whole(shares: NDArray[np.float32], most: ArrayLike, kind: type[np.integer]) -> NDArray:
    """Multiplies shares and rounds them, some rows at a time, so that temporary arrays stay small.

    Args:
        shares: (H,W) in [0,1].
        most: Values for a share of 1: a number, or (H,W).
        kind: Type of the result.

    Returns:
        (H,W) whole numbers.
    """
    factors = np.broadcast_to(np.asarray(most, np.float32), shares.shape)
    result = np.empty(shares.shape, kind)
    for top in range(0, len(shares), _ROWS):
        rows = slice(top, top + _ROWS)
        result[rows] = np.rint(shares[rows] * factors[rows])
    return result


def to_tensor(picture: NDArray) -> Tensor:
    """Converts an array (H,W,C) to a contiguous tensor (1,C,H,W).

    uint8 values become float32 in [0,1]; other values keep their type. The result may share memory
    with the array.
    """
    planes = np.require(picture.transpose(2, 0, 1), requirements=["C", "W"])
    tensor = torch.from_numpy(planes)[None]
    return tensor / 255 if tensor.dtype == torch.uint8 else tensor


def planes_of(picture: NDArray[np.uint8]) -> Tensor:
    """Views a picture (H,W,C) as planes (C,H,W) without conversion; read-only ones are copied."""
    return torch.from_numpy(np.require(picture, requirements=["W"])).permute(2, 0, 1)


def to_array(maps: Tensor) -> NDArray:
    """Converts a tensor (1,C,H,W) to an array (H,W,C), a view for a tensor on the CPU."""
    return maps[0].permute(1, 2, 0).cpu().numpy()


def ids_tensor(ids: NDArray[np.integer]) -> Tensor:
    """Converts a map of ids (H,W), superpixels or classes, to an int64 tensor (1,H,W)."""
    return torch.from_numpy(ids.astype(np.int64))[None]


def eight_bits(values: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8]:
    """Rounds values of 8 or 16 bits to 8 bits.

    >>> eight_bits(np.uint16([0, 128, 129, 65535])).tolist()
    [0, 0, 1, 255]
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)

"""The one place where label ids of files become class ids. 255 is ignore, everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
_UNKNOWN = -1  # in a table: an id that the data set does not define

# Raw ids of the 19 evaluation classes, in the order of their class ids (cityscapesScripts,
# labels.py); the other raw ids in 0..33 are ignored in evaluation.
CITYSCAPES_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_CITYSCAPES_LAST_RAW = 33


@dataclass(frozen=True)
class LabelMap:
    """Turns the ids of one data set's label files into class ids 0..K-1 and 255.

    Attributes:
        class_names: K names.
        table: 256 entries, raw id -> class id, 255 to ignore, -1 where the raw id is not defined.
    """

    class_names: tuple[str, ...]
    table: tuple[int, ...]

    def __call__(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Maps ids.

        Args:
            raw: (H,W) uint8.

        Returns:
            (H,W) uint8, classes 0..K-1 or 255.

        Raises:
            ValueError: an id outside the class list.

        >>> label_map = LabelMap.shifted(["sky", "tree"])  # ADE20K's convention
        >>> label_map(np.array([[0, 1, 2, 0]], np.uint8))
        array([[255,   0,   1, 255]], dtype=uint8)
        """
        classes, known = self._translation
        ids = bytearray(raw.tobytes())  # translated faster than an array is indexed
        unknown = sorted(set(ids.translate(None, known)))
        if unknown:
            raise ValueError(
                f"label id {', '.join(map(str, unknown[:8]))} is outside the list of "
                f"{len(self.class_names)} classes: correct the class list or the file, or mark "
                f"those pixels {IGNORE} (ignore)"
            )
        return np.frombuffer(ids.translate(classes), np.uint8).reshape(raw.shape)

    @cached_property
    def _translation(self) -> tuple[bytes, bytes]:
        """The table, and the raw ids that it defines."""
        known = bytes(raw for raw, class_id in enumerate(self.table) if class_id != _UNKNOWN)
        return bytes(class_id % 256 for class_id in self.table), known

    @classmethod
    def _from_pairs(cls, class_names: Sequence[str], pairs: dict[int, int]) -> "LabelMap":
        if len(class_names) > IGNORE:
            raise ValueError(f"{len(class_names)} classes do not fit 8-bit labels (at most 255)")
        table = [_UNKNOWN] * 256
        table[IGNORE] = IGNORE
        for raw, class_id in pairs.items():
            table[raw] = class_id
        return cls(tuple(class_names), tuple(table))

    @classmethod
    def identity(cls, class_names: Sequence[str]) -> "LabelMap":
        """Files hold class ids 0..K-1 and 255 = ignore."""
        return cls._from_pairs(class_names, {i: i for i in range(len(class_names))})

    @classmethod
    def shifted(cls, class_names: Sequence[str]) -> "LabelMap":
        """Files hold 0 = other, to be ignored, and 1..K (ADE20K)."""
        pairs = {i + 1: i for i in range(len(class_names))}
        return cls._from_pairs(class_names, {0: IGNORE} | pairs)

    @classmethod
    def cityscapes(cls) -> "LabelMap":
        """Files hold the raw ids of `*_gtFine_labelIds.png`."""
        pairs = dict.fromkeys(range(_CITYSCAPES_LAST_RAW + 1), IGNORE)
        pairs |= {raw: i for i, raw in enumerate(CITYSCAPES_IDS.values())}
        return cls._from_pairs(tuple(CITYSCAPES_IDS), pairs)

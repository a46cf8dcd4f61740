"""Conversion of the ids in label files to class ids.

All other modules use the class ids 0..K-1 and the two special ids of `ops.labels`.
"""

import codecs
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from softfeat.ops.labels import CONTRAST, IGNORE

_UNKNOWN = -1  # entry of a table for ids that the data set does not define

# Raw ids of the 19 evaluation classes, in the order of their class ids (labels.py of
# cityscapesScripts). The other raw ids in 0..33 are ignored in evaluation.
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
_TRAIN_IDS = bytes([*range(len(CITYSCAPES_IDS)), IGNORE])
_TRAIN_ID_REMEDY = (
    "these are train ids, and not the raw ids of labelIds files. Set data.layout.train_ids=true, "
    "or use the original files"
)


@dataclass(frozen=True)
class LabelMap:
    """Conversion of the ids in a data set's label files to class ids 0..K-1, CONTRAST and IGNORE.

    Attributes:
        class_names: Names of the K classes, at most 254. Contrast classes are not among them.
        table: Class id, CONTRAST or IGNORE of each of the 256 raw ids. -1 for raw ids that are not
            defined.
    """

    class_names: tuple[str, ...]
    table: tuple[int, ...]

    def __call__(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert the raw ids of a label file.

        Args:
            raw: Raw ids (H,W) uint8.

        Returns:
            Label map (H,W) uint8 of classes 0..K-1, CONTRAST and IGNORE.

        Raises:
            ValueError: If an id is not in the class list.

        >>> label_map = LabelMap.shifted(["sky", "tree"])  # the convention of ADE20K
        >>> label_map(np.array([[0, 1, 2, 0]], np.uint8))
        array([[255,   0,   1, 255]], dtype=uint8)
        """
        classes, known = self._translation
        ids = bytearray(raw.tobytes())  # translating bytes is faster than indexing an array
        unknown = sorted(set(ids.translate(None, known)))
        if unknown:
            raise ValueError(
                f"label id {', '.join(map(str, unknown[:8]))} is not in the class list: correct "
                f"the list or the file, or mark those pixels {IGNORE} (ignore)"
            )
        return np.frombuffer(ids.translate(classes), np.uint8).reshape(raw.shape)

    @cached_property
    def _translation(self) -> tuple[bytes, bytes]:
        """Return the table and the raw ids that it defines, as bytes."""
        known = bytes(raw for raw, class_id in enumerate(self.table) if class_id != _UNKNOWN)
        return bytes(class_id % 256 for class_id in self.table), known

    @classmethod
    def _from_pairs(cls, class_names: Sequence[str], pairs: dict[int, int]) -> Self:
        """Create a label map from pairs of a raw id and a class id."""
        if len(class_names) > CONTRAST or max(pairs) >= IGNORE:
            raise ValueError(
                f"{len(class_names)} classes do not fit 8-bit labels (at most {CONTRAST})"
            )
        table = [_UNKNOWN] * 256
        table[IGNORE] = IGNORE
        for raw, class_id in pairs.items():
            table[raw] = class_id
        return cls(tuple(class_names), tuple(table))

    @classmethod
    def identity(cls, class_names: Sequence[str], contrast: Sequence[str | int] = ()) -> Self:
        """Create the label map of files with the ids of a class list, and 255 for ignored pixels.

        Args:
            class_names: Names of the classes, in the order of their ids in the files.
            contrast: Names or ids of the classes that become CONTRAST. The others are numbered
                again without gaps, in the same order.

        Returns:
            Label map of the other classes.

        Raises:
            ValueError: If a contrast class is not in the list, or if no other class is left.

        >>> label_map = LabelMap.identity(["background", "cat", "dog"], contrast=["background"])
        >>> label_map.class_names, label_map(np.array([[0, 1, 2, 255]], np.uint8))
        (('cat', 'dog'), array([[254,   0,   1, 255]], dtype=uint8))
        """
        numbered = dict(enumerate(class_names))
        if unknown := set(contrast) - set(numbered) - set(class_names):
            choices = ", ".join(f"{raw} ({name})" for raw, name in numbered.items())
            raise ValueError(
                f"data.layout.contrast={list(contrast)}: there is no class "
                f"{', '.join(sorted(map(str, unknown)))}. Choose ids or names from {choices}"
            )
        objects = [raw for raw, name in numbered.items() if not {raw, name} & set(contrast)]
        if not objects:
            raise ValueError(f"data.layout.contrast={list(contrast)}: leave at least one class")
        pairs = dict.fromkeys(numbered, CONTRAST) | {raw: i for i, raw in enumerate(objects)}
        return cls._from_pairs([numbered[raw] for raw in objects], pairs)

    @classmethod
    def shifted(cls, class_names: Sequence[str]) -> Self:
        """Create the label map of files with the ids 1..K, and 0 for ignored pixels (ADE20K).

        Args:
            class_names: Names of the K classes, in the order of their ids in the files.

        Returns:
            Label map of these classes.
        """
        pairs = {i + 1: i for i in range(len(class_names))}
        return cls._from_pairs(class_names, {0: IGNORE} | pairs)

    def doubt(self, raw_ids: Collection[int]) -> str | None:
        """Say why the ids of a whole split do not look like those of this label map.

        Args:
            raw_ids: All raw ids in the label files of the split.

        Returns:
            Reason and remedy. None if there is no doubt.
        """
        if self.table[0] == IGNORE and IGNORE in raw_ids:
            return (
                "some labels hold 255, which original files lack. 0 is ignored here, too. If 1 has "
                "been subtracted from the ids, use data=folder with a classes.txt"
            )
        return None


class CityscapesLabels(LabelMap):
    """Label map of `*_gtFine_labelIds.png` files, which refuses train ids.

    Train ids (0..18 and 255) are valid raw ids of other classes. Original files never hold 255.
    """

    @classmethod
    def of_raw_ids(cls) -> Self:
        """Create the label map of the 19 evaluation classes."""
        pairs = dict.fromkeys(range(_CITYSCAPES_LAST_RAW + 1), IGNORE)
        pairs |= {raw: i for i, raw in enumerate(CITYSCAPES_IDS.values())}
        return cls._from_pairs(tuple(CITYSCAPES_IDS), pairs)

    def __call__(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert raw ids, as `LabelMap` does.

        Raises:
            ValueError: If an id is not defined, or if the ids are train ids.
        """
        ids = raw.tobytes()
        if bytes([IGNORE]) in ids and not ids.translate(None, _TRAIN_IDS):
            raise ValueError(f"only ids 0..18 and 255: {_TRAIN_ID_REMEDY}")
        return super().__call__(raw)

    def doubt(self, raw_ids: Collection[int]) -> str | None:
        if set(raw_ids) <= set(_TRAIN_IDS):
            return f"no id above 18 in any label: {_TRAIN_ID_REMEDY}"
        return None


def parse_class_names(content: bytes) -> list[str]:
    r"""Read a list of class names, of which line n is the name of id n-1.

    A byte-order mark, any kind of line end, spaces around names and blank lines at the end are
    ignored. Lines may be numbered from 0, as in `0: sky`. Everything that could shift the names
    is an error: blank lines between names, comments and other numbers.

    Args:
        content: Content of the file, UTF-8.

    Returns:
        Names of the classes.

    Raises:
        ValueError: If the list is not UTF-8 text, has no names or the same name twice, or if names
            could be shifted.

    >>> parse_class_names(b"\xef\xbb\xbfsky\r\ntree\r\n")
    ['sky', 'tree']
    >>> parse_class_names(b"0 sky\n1 tree")
    ['sky', 'tree']
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ValueError("the list is UTF-16 or no text: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8: save the list as UTF-8") from None
    # Not splitlines(): it would also split names at rare characters such as U+2028.
    names = [line.strip() for line in re.split(r"\r\n|\n|\r", text.rstrip())]
    if names == [""]:
        raise ValueError("the list has no names: write one per line, in the order of their ids")
    for line, name in enumerate(names, 1):
        if not name or name.startswith("#"):
            kind = "a comment" if name else "blank"
            raise ValueError(
                f"line {line} is {kind}, but line n must be the name of id n-1: remove the line, "
                "or write a name for an id without pixels"
            )
    numbered = [re.fullmatch(r"(\d+)(?:\s*[:,;.)]\s*|\s+)(\S.*)", name) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(names) > 1 and numbers == list(
        range(numbers[0], numbers[0] + len(names))
    ):
        if numbers[0]:
            raise ValueError(
                f"the lines are numbered from {numbers[0]}, but line n is the name of id n-1: "
                "number them from 0 as the ids in the label files, or remove the numbers"
            )
        names = [match[2] for match in numbered if match]
    for line, name in enumerate(names, 1):
        if not name.isprintable():
            raise ValueError(f"line {line}, {name!r}, has invisible characters: remove them")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        lines = ", ".join(str(i) for i, name in enumerate(names, 1) if name == twice[0])
        raise ValueError(f"the name {twice[0]} is in lines {lines}: give each id its own name")
    return names

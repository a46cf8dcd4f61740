from collections.abc import Callable

import numpy as np
import pytest

from softfeat.data.labels import CITYSCAPES_IDS, LabelMap
from softfeat.ops.labels import CONTRAST, IGNORE

# (raw id, class id) of all 34 raw ids in labels.py of cityscapesScripts
CITYSCAPES = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@pytest.mark.parametrize("raw", range(34))
def test_every_raw_cityscapes_id(raw: int) -> None:
    mapped = LabelMap.cityscapes()(np.full((2, 2), raw, np.uint8))
    assert mapped.dtype == np.uint8
    assert (mapped == CITYSCAPES.get(raw, IGNORE)).all()


def test_cityscapes_names_are_in_the_order_of_their_ids() -> None:
    names = LabelMap.cityscapes().class_names
    assert len(names) == 19
    assert (names[0], names[6], names[13], names[18]) == ("road", "traffic light", "car", "bicycle")
    assert list(CITYSCAPES_IDS.values()) == list(CITYSCAPES)


def test_zero_of_ade20k_is_ignored_and_does_not_wrap() -> None:
    label_map = LabelMap.shifted([f"class {i}" for i in range(150)])
    mapped = label_map(np.array([[0, 1, 150, 255]], np.uint8))
    assert mapped.tolist() == [[255, 0, 149, 255]]


def test_identity_keeps_ids_and_ignore() -> None:
    mapped = LabelMap.identity(["a", "b"])(np.array([[0, 1, 255]], np.uint8))
    assert mapped.tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("label_map", "bad"),
    [
        (LabelMap.identity(["a", "b"]), 2),
        (LabelMap.identity(["a", "b"], contrast=[0]), 2),
        (LabelMap.identity(["a", "b"]), CONTRAST),  # a special id that files must not contain
        (LabelMap.shifted(["a", "b"]), 3),
        (LabelMap.cityscapes(), 34),
    ],
)
def test_ids_outside_the_class_list_are_refused(label_map: LabelMap, bad: int) -> None:
    with pytest.raises(ValueError, match=f"label id {bad} is not in the class list"):
        label_map(np.array([[0, bad]], np.uint8))


@pytest.mark.parametrize("make", [LabelMap.identity, LabelMap.shifted])
def test_too_many_classes_are_refused(make: Callable[[list[str]], LabelMap]) -> None:
    names = [str(i) for i in range(256)]
    for count in (255, 256):
        with pytest.raises(ValueError, match=r"8-bit labels \(at most 254\)"):
            make(names[:count])
    assert max(set(make(names[:254]).table) - {IGNORE}) == 253


@pytest.mark.parametrize("contrast", [[1, 3], ["b", "d"], [1, "d", "b"]])
def test_contrast_classes_leave_no_gap(contrast: list[str | int]) -> None:
    label_map = LabelMap.identity(["a", "b", "c", "d", "e"], contrast)
    assert label_map.class_names == ("a", "c", "e")
    mapped = label_map(np.array([[0, 1, 2, 3, 4, 255]], np.uint8))
    assert mapped.tolist() == [[0, CONTRAST, 1, CONTRAST, 2, IGNORE]]


def test_a_list_with_contrast_classes_may_be_no_longer() -> None:
    with pytest.raises(ValueError, match="at most 254"):
        LabelMap.identity([str(i) for i in range(256)], contrast=[0, 1])


def test_unknown_contrast_classes_are_refused() -> None:
    for unknown in ("sky", 2, -1):
        message = rf"contrast.* no class {unknown}\. .*0 \(a\), 1 \(b\)"
        with pytest.raises(ValueError, match=message):
            LabelMap.identity(["a", "b"], ["a", unknown])
    with pytest.raises(ValueError, match="at least one class"):
        LabelMap.identity(["a", "b"], [0, "b"])

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softfeat.data.labels import CITYSCAPES_IDS, CityscapesLabels, LabelMap, parse_class_names
from softfeat.ops.labels import CONTRAST, IGNORE

# (raw id, class id) of all 34 raw ids in labels.py of cityscapesScripts
CITYSCAPES = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@pytest.mark.parametrize("raw", range(34))
def test_every_raw_cityscapes_id(raw: int) -> None:
    mapped = CityscapesLabels.of_raw_ids()(np.full((2, 2), raw, np.uint8))
    assert mapped.dtype == np.uint8
    assert (mapped == CITYSCAPES.get(raw, IGNORE)).all()


def test_cityscapes_names_are_in_the_order_of_their_ids() -> None:
    names = CityscapesLabels.of_raw_ids().class_names
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
        (CityscapesLabels.of_raw_ids(), 34),
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


def test_raw_ids_are_not_train_ids() -> None:
    label_map = CityscapesLabels.of_raw_ids()
    with pytest.raises(ValueError, match=r"data\.layout\.train_ids=true"):
        label_map(np.array([[0, 13, 18, 255]], np.uint8))
    assert label_map(np.array([[0, 26, 255]], np.uint8)).tolist() == [[255, 13, 255]]
    assert label_map(np.array([[0, 7, 11]], np.uint8)).tolist() == [[255, 0, 2]]
    assert "train ids" in str(label_map.doubt([0, 7, 18]))
    assert "train ids" in str(label_map.doubt([*range(19), 255]))
    assert label_map.doubt([7, 26]) is None


def test_labels_of_ade20k_that_were_shifted_before_are_doubted() -> None:
    label_map = LabelMap.shifted(["a", "b"])
    assert label_map.doubt([0, 1, 2]) is None
    assert "data=folder" in str(label_map.doubt([0, 1, 255]))
    assert LabelMap.identity(["a"]).doubt([0, 255]) is None


@pytest.mark.parametrize(
    "content",
    [
        b"sky\ntree\n",
        b"sky\r\ntree",
        b"sky\rtree\r",
        b"\xef\xbb\xbfsky\ntree",
        b" sky \ntree\t\n\n \n",
        b"0 sky\n1 tree",
        b"0: sky\n1: tree",
        b"0\tsky\n1\ttree",
        b"0,sky\n1,tree",
    ],
)
def test_lists_of_classes(content: bytes) -> None:
    assert parse_class_names(content) == ["sky", "tree"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sky\n\ntree", "line 2 is blank"),
        (b"\nsky", "line 1 is blank"),
        (b"# my classes\nsky", "line 1 is a comment"),
        (b"sky\ntree # tall\n#end", "line 3 is a comment"),
        (b"1 sky\n2 tree", "numbered from 1"),
        (b"sky\ntree\nsky", "sky is in lines 1, 3"),
        (b"0 sky\n1 sky", "sky is in lines 1, 2"),
        ("sky\ntr\u2028ee".encode(), "line 2, .* invisible"),
        (b"sky\tblue\ntree", "line 1, .* invisible"),
        ("sky\ntree".encode("utf-16"), "save it as UTF-8"),
        ("sky\ntree".encode("utf-16-be"), "save it as UTF-8"),
        ("sky\nB\u00e4ume".encode("latin-1"), "line 2 is not UTF-8"),
        (b"", "no names"),
        (b"\xef\xbb\xbf\n \n", "no names"),
    ],
)
def test_lists_that_could_shift_names_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_class_names(content)


def test_names_may_begin_with_numbers() -> None:
    names = ["1 cent", "2 cent", "5 cent"]
    assert parse_class_names("\n".join(names).encode()) == names
    digits = [str(i) for i in range(10)]
    assert parse_class_names("\n".join(digits).encode()) == digits


class_names = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1).filter(
        lambda name: not name.startswith("#") and not name[0].isdigit()
    ),
    min_size=1,
    max_size=254,
    unique=True,
)


@settings(max_examples=50, deadline=None)
@given(
    class_names,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\ufeff"]),
    st.integers(0, 3),
)
def test_any_list_of_names_is_read_as_it_was_written(
    names: list[str], end: str, mark: str, blank: int
) -> None:
    assert parse_class_names((mark + end.join(names) + blank * end).encode()) == names


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_file_is_a_list_without_gaps_or_an_error(content: bytes) -> None:
    try:
        names = parse_class_names(content)
    except ValueError:
        return
    assert all(name and name == name.strip() for name in names)
    assert len(set(names)) == len(names) > 0


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 254))
def test_any_label_map_keeps_classes_apart(data: st.DataObject, count: int) -> None:
    names = [f"class {i}" for i in range(count)]
    contrast = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    label_map = LabelMap.identity(names, sorted(contrast))
    raw = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=40))
    array = np.array([raw], np.uint8)
    if any(count <= each < IGNORE for each in raw):
        with pytest.raises(ValueError, match="not in the class list"):
            label_map(array)
        return
    for each, mapped in zip(raw, label_map(array)[0].tolist(), strict=True):
        if each in contrast or each == IGNORE:
            assert mapped == (IGNORE if each == IGNORE else CONTRAST)
        else:
            assert label_map.class_names[mapped] == names[each]

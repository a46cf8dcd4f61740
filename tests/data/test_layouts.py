from functools import partial
from pathlib import Path

import numpy as np
import pytest

from softfeat.data.layouts import (
    ADE20K,
    Cityscapes,
    DataError,
    Folder,
    Mixture,
    Record,
    label_spaces,
)
from softfeat.data.records import read_classes, read_record
from tests.helpers.datasets import real_data


def test_ade20k(ade20k_root: Path) -> None:
    layout = ADE20K(ade20k_root)
    assert layout.class_names[:2] == ("thing0", "thing1")
    assert len(layout.class_names) == 150
    assert len(layout.records("train")) == 4
    assert layout.records("val") == layout.records("test")
    record = layout.records("train")[0]
    assert record.label.parent.parent.name == "annotations"
    read_record(record)


def test_cityscapes(cityscapes_root: Path) -> None:
    layout = Cityscapes(cityscapes_root)
    assert len(layout.class_names) == 19
    assert len(layout.records("train")) == 4
    record = layout.records("val")[0]
    assert record.label.name == "ulm_000000_000019_gtFine_labelIds.png"
    read_record(record)


def test_folder(folder_root: Path) -> None:
    layout = Folder(folder_root)
    assert layout.class_names == ("class 0", "class 1", "class 2")
    assert [len(layout.records(s)) for s in ("train", "val", "test")] == [4, 2, 2]


def test_folder_without_a_test_split(folder_root: Path) -> None:
    (folder_root / "images" / "test").rename(folder_root / "unused")
    assert Folder(folder_root).records("test") == Folder(folder_root).records("val")
    with pytest.raises(DataError, match=r"choose a split that exists there \(train, val\)"):
        Folder(folder_root, test=None).records("test")


def test_folder_without_class_names(folder_root: Path) -> None:
    (folder_root / "classes.txt").unlink()
    with pytest.raises(DataError, match="num_classes"):
        Folder(folder_root)
    assert Folder(folder_root, num_classes=182).class_names[181] == "181"


def test_folder_with_a_contrast_class(folder_root: Path) -> None:
    plain, layout = Folder(folder_root), Folder(folder_root, contrast=["class 0"])
    assert (plain.contrast, layout.contrast) == ((), ("class 0",))
    assert layout.class_names == ("class 1", "class 2")
    old, new = (read_classes(each.records("train")[0]) for each in (plain, layout))
    assert set(np.unique(old)) == {0, 1, 2, 255}
    for before, after in ((0, 254), (1, 0), (2, 1), (255, 255)):
        assert (new[old == before] == after).all()
    mixture = Mixture(folder_root.parent, {folder_root.name: partial(Folder, contrast=[0])})
    assert mixture.contrast == (0,)


@pytest.mark.parametrize("contrast", ["class 0", 0, {0: 1}])
def test_contrast_classes_are_a_list(folder_root: Path, contrast: object) -> None:
    with pytest.raises(ValueError, match=r"data\.layout\.contrast=.* set it to a list"):
        Folder(folder_root, contrast=contrast)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["sky", 3])
def test_an_unknown_contrast_class_is_named(folder_root: Path, wrong: str | int) -> None:
    choices = r"0 \(class 0\), 1 \(class 1\), 2 \(class 2\)"
    with pytest.raises(DataError, match=rf"data\.layout\.contrast.* {wrong}\. .*{choices}"):
        Folder(folder_root, contrast=[0, wrong])


def test_too_many_classes_are_a_data_error(folder_root: Path) -> None:
    (folder_root / "classes.txt").write_text("\n".join(map(str, range(255))))
    with pytest.raises(DataError, match=r"classes\.txt: 255 classes do not fit"):
        Folder(folder_root)


def test_mixture_keeps_label_spaces_apart(mixture_root: Path) -> None:
    layout = Mixture(mixture_root, dict.fromkeys(("camvid", "msrc_v2"), Folder))
    records = layout.records("train")
    assert len(records) == 8
    assert {len(r.label_map.class_names) for r in records} == {2, 5}
    spaces = label_spaces(layout)
    assert all(spaces[r.space] == r.label_map.class_names for r in records)
    assert len(spaces) == len({r.space for r in records}) == 2
    (alone,) = label_spaces(layout.layouts["camvid"])
    assert alone == spaces[0]


def test_mixture_holds_sets_out_of_training(mixture_root: Path) -> None:
    layouts = dict.fromkeys(("camvid", "msrc_v2", "idd_lite"), Folder)
    layout = Mixture(mixture_root, layouts, held_out=["msrc_v2", "camvid"])
    plain = Mixture(mixture_root, layouts)

    def of(sets: set[int], split: str) -> list[Record]:
        return [record for record in plain.records(split) if record.space in sets]

    assert layout.records("train") == of({2}, "train")
    assert layout.records("val") == of({0, 1}, "train")
    assert layout.records("test") == of({0, 1}, "val")
    with pytest.raises(DataError, match=r"data\.layout\.held_out: ade is not in camvid, msrc"):
        Mixture(mixture_root, layouts, held_out=["ade"])
    with pytest.raises(DataError, match="leaves no data set for training"):
        Mixture(mixture_root, layouts, held_out=list(layouts))


@pytest.mark.parametrize(
    "layout", [ADE20K, Cityscapes, Folder, partial(Mixture, layouts={"a": Folder})]
)
def test_a_missing_root_says_what_to_do(layout: object, tmp_path: Path) -> None:
    for root, where in ((None, "is not set"), (tmp_path / "nowhere", "nowhere is not a folder")):
        with pytest.raises(DataError, match=rf"(?s){where}\. Expected.*<- data\.root") as error:
            layout(root=root)  # type: ignore[operator]
        # A folder of one's own is got from nowhere.
        assert ("Get it from" in str(error.value)) == (layout is not Folder)


@pytest.mark.parametrize(
    ("layout", "page"), [(ADE20K, "csail.mit.edu"), (Cityscapes, "cityscapes-dataset")]
)
def test_a_missing_root_names_the_download_page(layout: type, page: str) -> None:
    with pytest.raises(DataError, match=page):
        layout(None)


def test_an_empty_split_is_an_error(folder_root: Path) -> None:
    for photo in (folder_root / "images" / "val").iterdir():
        photo.unlink()
    with pytest.raises(DataError, match="has no photos"):
        Folder(folder_root).records("val")


def test_wrong_ade20k_root(folder_root: Path) -> None:
    with pytest.raises(DataError, match=r"objectInfo150\.txt is missing"):
        ADE20K(folder_root)


def test_real_samples_in_their_true_layouts() -> None:
    ade = ADE20K(real_data("ade20k_sample") / "ADEChallengeData2016")
    assert ade.class_names[0] == "wall"
    assert [len(ade.records(s)) for s in ("train", "val")] == [2, 3]
    city = Cityscapes(real_data("cityscapes_sample"))
    coco = Folder(real_data("coco_stuff_sample"), num_classes=182)
    records = ade.records("train") + ade.records("val") + city.records("val")[:1]
    for record in records + coco.records("train")[:3]:
        image, _ = read_record(record)
        assert image.dtype == np.uint8


def test_subfolders_of_photos_have_the_same_subfolders_of_labels(folder_root: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (folder_root / kind / "train" / "park").mkdir()
        path = folder_root / kind / "train" / f"1.{suffix}"
        path.rename(folder_root / kind / "train" / "park" / path.name)
    records = Folder(folder_root).records("train")
    assert [record.image.stem for record in records] == ["0", "2", "3", "1"]
    for record in records:
        read_record(record)
    label = folder_root / "labels" / "train" / "park" / "1.png"
    label.rename(label.parent.parent / label.name)
    with pytest.warns(UserWarning, match=r"1 label \(1\.png\) without a photo"):
        *_, last = Folder(folder_root).records("train")
    with pytest.raises(FileNotFoundError, match=r"park/1\.jpg has no label"):
        read_record(last)


def test_problems_of_a_mixture_come_together(mixture_root: Path) -> None:
    layout = Mixture(mixture_root, dict.fromkeys(("camvid", "msrc_v2", "voc2012"), Folder))
    for name in ("camvid", "voc2012"):
        (mixture_root / name / "images" / "val").rename(mixture_root / name / "unused")
    with pytest.raises(DataError) as error:
        layout.records("val")
    assert ["camvid" in error.value.problems[0], "voc2012" in error.value.problems[1]] == [True] * 2


def test_cityscapes_photos_need_their_names(cityscapes_root: Path) -> None:
    folder = cityscapes_root / "leftImg8bit" / "train" / "ulm"
    photo = sorted(folder.iterdir())[0]
    photo.rename(folder / "renamed.png")
    with pytest.warns(UserWarning, match=r"skipped 1 photo \(renamed\.png\)") as warned:
        assert len(Cityscapes(cityscapes_root).records("train")) == 3
    assert warned[0].filename == __file__  # the warning points to the line that lists the photos


def test_cityscapes_prefers_files_of_train_ids_if_they_are_asked_for(cityscapes_root: Path) -> None:
    label = Cityscapes(cityscapes_root).records("train")[0].label
    other = label.with_name(label.name.replace("labelIds", "labelTrainIds"))
    label.rename(other)
    layout = Cityscapes(cityscapes_root, train_ids=True)
    assert [record.label == other for record in layout.records("train")] == [True, *[False] * 3]
    assert layout.class_names == Cityscapes(cityscapes_root).class_names
    assert not Cityscapes(cityscapes_root).records("train")[0].label.exists()


def test_one_of_each_kind_of_problem_is_listed() -> None:
    lines = [f"labels/{i}.png is missing" for i in range(100)] + ["images/7.jpg is truncated"]
    message = str(DataError("problems", lines))
    assert "images/7.jpg is truncated" in message
    assert message.count("is missing") == 5
    assert message.endswith("... and 95 more")


def test_at_most_twenty_problems_are_listed() -> None:
    lines = [f"{'a' * kind} is wrong" for kind in range(1, 31)]  # all of different kinds
    message = str(DataError("problems", lines))
    assert message.splitlines() == ["problems", *(f"  - {line}" for line in lines[:20]),
                                    "  ... and 10 more"]  # fmt: skip
    assert str(DataError("problems", lines[:20])).endswith(lines[19])


@pytest.mark.parametrize("count", [1, 254])
def test_as_many_classes_as_labels_have_ids(folder_root: Path, count: int) -> None:
    (folder_root / "classes.txt").unlink()
    layout = Folder(folder_root, num_classes=count)
    assert layout.class_names == tuple(map(str, range(count)))


@pytest.mark.parametrize("count", [0, 255])
def test_more_or_fewer_classes_than_labels_have_ids_are_refused(
    folder_root: Path, count: int
) -> None:
    (folder_root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=rf"data\.layout\.num_classes={count}.*from 1 to 254"):
        Folder(folder_root, num_classes=count)


def test_an_ade20k_list_of_another_length_is_refused(ade20k_root: Path) -> None:
    info = ade20k_root / "objectInfo150.txt"
    rows = info.read_text().splitlines()
    info.write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match=r"objectInfo150\.txt lists 149 classes instead of 150"):
        ADE20K(ade20k_root)


@pytest.mark.parametrize("part", ["leftImg8bit", "gtFine"])
def test_a_cityscapes_folder_without_one_of_its_parts(cityscapes_root: Path, part: str) -> None:
    (cityscapes_root / part).rename(cityscapes_root / "unused")
    with pytest.raises(DataError, match=rf"{part} is missing.*(?s:.*)cityscapes-dataset"):
        Cityscapes(cityscapes_root)


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_missing_val_split_names_the_ways_to_validate(folder_root: Path, split: str) -> None:
    (folder_root / "images" / split).rename(folder_root / "unused")
    with pytest.raises(DataError, match="choose a split that exists there") as error:
        Folder(folder_root).records(split)
    assert ("data.hold_back=true" in str(error.value)) == (split == "val")
    assert "unused" not in str(error.value).partition("exists there")[2]

"""Layouts of the files of a data set: ADE20K, Cityscapes, plain folders, and mixtures of them.

A layout lists the photos and labels of a split. It does not read them.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from softfeat.checks import text, whole
from softfeat.data.files import find_labels, list_files, list_photos, named
from softfeat.data.labels import CityscapesLabels, LabelMap, parse_class_names

_LISTED = 20  # problems in the message of an error
_OF_A_KIND = 5


@dataclass(frozen=True)
class Record:
    """A labelled photo.

    Attributes:
        image: File of the photo.
        label: File of the label map.
        label_map: Conversion of the ids in the label file to classes.
        space: Number of the label space, from 0. Photos with the same number have the same classes.
            There is more than one label space only in a `Mixture`.
        upright: Whether photo and label are turned by the EXIF orientations of their files.
    """

    image: Path
    label: Path
    label_map: LabelMap
    space: int = 0
    upright: bool = True


class DataError(ValueError):
    """Error in the files of a data set.

    Args:
        summary: Summary of the problems, with the remedy.
        problems: Descriptions of all problems. The message lists the first of each kind, at most
            20, and counts the rest.
    """

    def __init__(self, summary: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        kinds: Counter[str] = Counter()
        listed: list[str] = []
        for problem in self.problems:
            kind = re.sub(r"\S*[/\\]\S*|\d+", "", problem)  # the text without names and numbers
            kinds[kind] += 1
            if kinds[kind] <= _OF_A_KIND and len(listed) < _LISTED:
                listed.append(f"  - {problem}")
        lines = [summary, *listed]
        if len(self.problems) > len(listed):
            lines.append(f"  ... and {len(self.problems) - len(listed)} more")
        super().__init__("\n".join(lines))


class Layout(Protocol):
    """Interface of a data set for the data module.

    Attributes:
        class_names: Names of the classes. Empty if there is more than one label space.
        contrast: Names or ids of the contrast classes in the files.
    """

    class_names: tuple[str, ...]
    contrast: tuple[str | int, ...]

    def prepare(self) -> None:
        """Create the files, if the data set is generated. Called in one process per node."""

    def records(self, split: str) -> list[Record]:
        """List the photos of a split, in a fixed order.

        Whether the files exist and are valid is checked when they are read.

        Args:
            split: Name of the split, "train", "val" or "test".

        Returns:
            Photos with their label files.

        Raises:
            DataError: If there is no such split, or if it is empty.
        """


def _require_root(root: str | Path | None, name: str, tree: str, download: str) -> Path:
    """Check that the root of a data set is a folder. The error shows its tree and its source."""
    if root is not None and Path(root).is_dir():
        return Path(root)
    where = "data.root is not set" if root is None else f"data.root={root} is not a folder"
    source = f"\nGet it from {download}" if download else ""
    raise DataError(f"{name}: {where}. Expected\n{tree}{source}")


def _split_folder(folder: Path, available: Iterable[Path]) -> Path:
    """Check that the folder of a split exists. `available` are the folders of all splits."""
    if folder.is_dir():
        return folder
    names = ", ".join(sorted(p.name for p in available if p.is_dir())) or "none"
    remedy = ""
    if folder.name in ("val", "validation"):
        remedy = (
            "; put photos with labels there, or set data.hold_back=true data.test_split=val to "
            "validate on a tenth of the train split"
        )
    raise DataError(f"{folder} is not a folder: choose a split that exists there ({names}){remedy}")


def _pair(photos: Path, labels: Path, label_map: LabelMap) -> list[Record]:
    """List the photos of a folder and its subfolders with their label files."""
    images = list_photos(photos)
    if not images:
        raise DataError(f"{photos} has no photos: put picture files there")
    pairs = zip(images, find_labels(images, photos, labels), strict=True)
    return [Record(image, label, label_map) for image, label in pairs]


class ADE20K:
    """The scene-parsing release of ADE20K with 150 classes. Annotation 0 (other) is ignored.

    The labels of its test split are not public, so "test" is the validation split.

    Args:
        root: Folder `ADEChallengeData2016`.

    Raises:
        DataError: If the folder or its list of classes is missing.
    """

    TREE = """  ADEChallengeData2016/        <- data.root
    objectInfo150.txt
    images/{training,validation}/*.jpg
    annotations/{training,validation}/*.png"""
    DOWNLOAD = "http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip, 923 MB)"
    contrast: tuple[str | int, ...] = ()

    def __init__(self, root: str | Path | None) -> None:
        self.root = _require_root(root, "ADE20K", self.TREE, self.DOWNLOAD)
        info = self.root / "objectInfo150.txt"
        if not info.is_file():
            raise DataError(f"ADE20K: {info} is missing. Expected\n{self.TREE}")
        rows = info.read_text(encoding="utf-8").splitlines()[1:]
        names = [row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()]
        if len(names) != 150:
            raise DataError(f"ADE20K: {info} lists {len(names)} classes instead of 150")
        self.label_map = LabelMap.shifted(names)
        self.class_names = self.label_map.class_names

    def prepare(self) -> None:
        """Do nothing: the user provides the files."""

    def records(self, split: str) -> list[Record]:
        name = "training" if split == "train" else "validation"
        folder = _split_folder(self.root / "images" / name, (self.root / "images").glob("*"))
        return _pair(folder, self.root / "annotations" / name, self.label_map)


class Cityscapes:
    """Cityscapes with the raw ids of `labelIds` files, converted to the 19 evaluation classes.

    The labels of its test split are not public, so "test" is the validation split.

    Args:
        root: Folder that contains `leftImg8bit` and `gtFine`.
        train_ids: Whether the label files hold train ids (0 to 18, and 255 for ignored pixels)
            instead of raw ids. Files named `labelTrainIds` are preferred then.

    Raises:
        DataError: If one of the folders is missing.
    """

    TREE = """  cityscapes/                  <- data.root
    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png
    gtFine/{train,val}/<city>/*_gtFine_labelIds.png"""
    DOWNLOAD = (
        "https://www.cityscapes-dataset.com/downloads "
        "(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)"
    )
    contrast: tuple[str | int, ...] = ()

    def __init__(self, root: str | Path | None, train_ids: bool = False) -> None:
        self.root = _require_root(root, "Cityscapes", self.TREE, self.DOWNLOAD)
        for part in ("leftImg8bit", "gtFine"):
            if not (self.root / part).is_dir():
                raise DataError(
                    f"Cityscapes: {self.root / part} is missing. Expected\n{self.TREE}\n"
                    f"Get it from {self.DOWNLOAD}"
                )
        raw = CityscapesLabels.of_raw_ids()
        self.class_names = raw.class_names
        self.label_map = LabelMap.identity(raw.class_names) if train_ids else raw
        self._kinds = ("labelTrainIds", "labelIds") if train_ids else ("labelIds",)

    def prepare(self) -> None:
        """Do nothing: the user provides the files."""

    def records(self, split: str) -> list[Record]:
        name = "val" if split == "test" else split
        photos = self.root / "leftImg8bit"
        labels = self.root / "gtFine" / name
        folder = _split_folder(photos / name, photos.glob("*"))
        ending = "_leftImg8bit"
        images = list_photos(folder)
        if strangers := [image for image in images if not image.stem.endswith(ending)]:
            warnings.warn(
                f"{folder}: skipped {named(strangers, 'photo')}: names must end in {ending}",
                stacklevel=2,
            )
        images = [image for image in images if image.stem.endswith(ending)]
        if not images:
            raise DataError(f"{folder} has no photos <city>/*{ending}.png: put them there")
        files = set(list_files(labels)) if labels.is_dir() else set()

        def label_of(image: Path) -> Path:
            start = labels / image.parent.relative_to(folder) / image.stem.removesuffix(ending)
            names = [start.with_name(f"{start.name}_gtFine_{kind}.png") for kind in self._kinds]
            return next((path for path in names if path in files), names[-1])

        return [Record(image, label_of(image), self.label_map) for image in images]


class Folder:
    """A folder with `images/<split>/<stem>.jpg`, `labels/<split>/<stem>.png` and `classes.txt`.

    Photos may lie in subfolders. Their labels lie in the same subfolders of `labels/<split>`.
    Labels are 8-bit class ids 0..K-1, and 255 for ignored pixels. Line n of `classes.txt` is the
    name of id n-1 (see `parse_class_names`). The pixel maps of COCO-Stuff (`stuffthingmaps`, ids
    0..181 and 255) can be used as they are.

    Args:
        root: Folder of the data set.
        test: Split to use instead if there is no `images/test`. None raises an error.
        num_classes: Number of classes K if there is no `classes.txt`. Their names are "0".."K-1".
        contrast: Names or ids of the classes that differ from all others without being one class
            (CONTRAST of `ops.labels`), such as the background of labelled objects. They are not
            among `class_names`.
        download: Source of the data, for the error message if `root` is missing.

    Raises:
        DataError: If `root` or the list of classes is missing, or if `contrast` does not fit.
    """

    TREE = """  <folder>/                    <- data.root
    images/<split>/*.jpg
    labels/<split>/*.png       8-bit ids 0..K-1, 255 = ignore
    classes.txt                one name per line"""

    def __init__(
        self,
        root: str | Path | None,
        test: str | None = "val",
        num_classes: int | None = None,
        contrast: Sequence[str | int] = (),
        download: str = "",
    ) -> None:
        if test is not None:
            text("data.layout.test", test)
        if num_classes is not None:
            whole("data.layout.num_classes", num_classes, 1, 254)
        if isinstance(contrast, str) or not isinstance(contrast, Sequence):
            raise ValueError(f"data.layout.contrast={contrast}: set it to a list, such as [0]")
        self.root = _require_root(root, "folder layout", self.TREE, download)
        self.test = test
        listing = self.root / "classes.txt"
        self.contrast = tuple(contrast)
        if not listing.is_file() and num_classes is None:
            raise DataError(
                f"{listing} is missing: list the names of the classes there, one per line in the "
                f"order of their ids, or set data.layout.num_classes. Expected\n{self.TREE}"
            )
        try:
            if listing.is_file():
                names = parse_class_names(listing.read_bytes())
            else:
                names = [str(i) for i in range(num_classes or 0)]
            self.label_map = LabelMap.identity(names, self.contrast)
        except ValueError as error:
            raise DataError(f"{listing}: {error}") from error
        self.class_names = self.label_map.class_names

    def prepare(self) -> None:
        """Do nothing: the user provides the files."""

    def records(self, split: str) -> list[Record]:
        photos = self.root / "images"
        if split == "test" and self.test and not (photos / split).is_dir():
            split = self.test
        folder = _split_folder(photos / split, photos.glob("*"))
        return _pair(folder, self.root / "labels" / split, self.label_map)


class Mixture:
    """Several data sets, each with its own label space, for metric learning.

    The loss compares superpixels of the same image only, so labels may have different meanings in
    different data sets.

    Args:
        root: Folder that contains the data sets.
        layouts: Constructors of the data sets, by the name of their folder in `root`. Each is
            called with `root=`.
        held_out: Names of data sets without training, to measure how features transfer. Their train
            split is used for validation, by which settings may be chosen, and their val split for
            testing. Scores are means over their photos.

    Raises:
        DataError: If `root` is missing, or if `layouts` or `held_out` are not consistent.
    """

    TREE = """  <folder>/                    <- data.root
    <set>/                     one folder per data set, each with its own layout"""

    def __init__(
        self,
        root: str | Path | None,
        layouts: Mapping[str, Callable[..., Layout]],
        held_out: Sequence[str] = (),
    ) -> None:
        if not layouts:
            raise DataError("a mixture needs at least one data set in data.layout.layouts")
        if unknown := ", ".join(sorted(set(held_out) - set(layouts))):
            raise DataError(f"data.layout.held_out: {unknown} is not in {', '.join(layouts)}")
        if set(layouts) == set(held_out):
            raise DataError(
                "data.layout.held_out leaves no data set for training: remove one from it"
            )
        root = _require_root(root, "mixture", self.TREE, "the websites of its data sets")
        self.layouts = {name: make(root=root / name) for name, make in layouts.items()}
        self.held_out = tuple(held_out)
        self.class_names: tuple[str, ...] = ()  # there is no common label space
        self.contrast = tuple(c for layout in self.layouts.values() for c in layout.contrast)

    def prepare(self) -> None:
        for layout in self.layouts.values():
            layout.prepare()

    def records(self, split: str) -> list[Record]:
        if self.held_out and split != "train":
            names = set(self.held_out)
            split = {"val": "train", "test": "val"}[split]
        else:
            names = set(self.layouts) - set(self.held_out)
        records: list[Record] = []
        problems: list[str] = []
        for space, (name, layout) in enumerate(self.layouts.items()):
            if name not in names:
                continue
            try:
                records += [replace(record, space=space) for record in layout.records(split)]
            except DataError as error:
                problems += error.problems or [str(error)]
        if problems:
            raise DataError(f"{len(problems)} sets of the mixture have no {split} split", problems)
        return records


def label_spaces(layout: Layout) -> list[tuple[str, ...]]:
    """List the class names of each label space.

    Args:
        layout: Data set.

    Returns:
        Class names by `Record.space`. Only a mixture has more than one label space.
    """
    layouts = layout.layouts.values() if isinstance(layout, Mixture) else [layout]
    return [each.class_names for each in layouts]

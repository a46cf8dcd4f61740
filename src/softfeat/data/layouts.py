"""Where the files of a data set lie: ADE20K, Cityscapes, plain folders, and mixtures of them.

A layout finds the photos and labels of a split; it does not read them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from softfeat.data.labels import LabelMap
from softfeat.imaging.images import IMAGE_SUFFIXES, pictures


@dataclass(frozen=True)
class Record:
    """One labelled photo: its files and what the ids in the label file mean.

    Attributes:
        image: file.
        label: file.
        label_map: what its ids mean.
        space: number of the label space in a mixture; two photos of one space share their classes.
    """

    image: Path
    label: Path
    label_map: LabelMap
    space: int = 0


class DataError(ValueError):
    """Something is wrong with the files of a data set; the message lists what and the remedy."""

    def __init__(self, summary: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        shown = self.problems[:20]
        more = len(self.problems) - len(shown)
        lines = [summary, *(f"  - {p}" for p in shown), *([f"  ... and {more} more"] * bool(more))]
        super().__init__("\n".join(lines))


class Layout(Protocol):
    """What the data module asks of a data set."""

    class_names: tuple[str, ...]
    contrast: tuple[str | int, ...]  # names or ids of the contrast classes of the files

    def prepare(self) -> None:
        """Makes the files if the project makes them itself; called on one process a node."""

    def records(self, split: str) -> list[Record]:
        """The photos of `split` (train, val or test) with where their labels should be.

        In a fixed order; whether the files are there and right is seen when they are read.

        Raises:
            DataError: no such split, or an empty one.
        """


def _require_root(root: str | Path | None, name: str, tree: str, download: str) -> Path:
    if root is not None and Path(root).is_dir():
        return Path(root)
    where = "data.root is not set" if root is None else f"data.root={root} is not a folder"
    raise DataError(f"{name}: {where}. Expected\n{tree}\nGet it from {download}")


def _split_folder(folder: Path, available: Iterable[Path]) -> Path:
    if folder.is_dir():
        return folder
    names = ", ".join(sorted(p.name for p in available if p.is_dir())) or "none"
    raise DataError(f"{folder} is not a folder: choose a split that exists there ({names})")


def _pair(
    images: list[Path], label_of: Callable[[Path], Path], label_map: LabelMap, folder: Path
) -> list[Record]:
    if not images:
        raise DataError(f"{folder} holds no photos ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Record(image, label_of(image), label_map) for image in images]


class ADE20K:
    """The scene-parsing release of ADE20K, 150 classes; annotation 0 (other) is ignored.

    Its test labels are not public: the test split is the validation split.

    Args:
        root: the folder `ADEChallengeData2016`.
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
        """The files are the user's."""

    def records(self, split: str) -> list[Record]:
        name = "training" if split == "train" else "validation"
        folder = _split_folder(self.root / "images" / name, (self.root / "images").glob("*"))
        images = pictures(folder)
        labels = self.root / "annotations" / name
        return _pair(images, lambda i: labels / f"{i.stem}.png", self.label_map, folder)


class Cityscapes:
    """Cityscapes with raw `labelIds`, mapped to the 19 evaluation classes.

    Its test labels are not public: the test split is the validation split.

    Args:
        root: the folder with `leftImg8bit` and `gtFine`.
    """

    TREE = """  cityscapes/                  <- data.root
    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png
    gtFine/{train,val}/<city>/*_gtFine_labelIds.png"""
    DOWNLOAD = (
        "https://www.cityscapes-dataset.com/downloads "
        "(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)"
    )
    contrast: tuple[str | int, ...] = ()

    def __init__(self, root: str | Path | None) -> None:
        self.root = _require_root(root, "Cityscapes", self.TREE, self.DOWNLOAD)
        for part in ("leftImg8bit", "gtFine"):
            if not (self.root / part).is_dir():
                raise DataError(
                    f"Cityscapes: {self.root / part} is missing. Expected\n{self.TREE}\n"
                    f"Get it from {self.DOWNLOAD}"
                )
        self.label_map = LabelMap.cityscapes()
        self.class_names = self.label_map.class_names

    def prepare(self) -> None:
        """The files are the user's."""

    def records(self, split: str) -> list[Record]:
        name = "val" if split == "test" else split
        photos, labels = self.root / "leftImg8bit", self.root / "gtFine"
        folder = _split_folder(photos / name, photos.glob("*"))
        ending = "_leftImg8bit.png"
        images = sorted(folder.glob(f"*/*{ending}"))

        def label_of(image: Path) -> Path:
            name_of_label = image.name.removesuffix(ending) + "_gtFine_labelIds.png"
            return labels / name / image.parent.name / name_of_label

        return _pair(images, label_of, self.label_map, folder)


class Folder:
    """`images/<split>/<stem>.jpg`, `labels/<split>/<stem>.png` and `classes.txt`.

    Labels are 8-bit class ids 0..K-1 and 255 = ignore; line n of `classes.txt` names id n-1.
    COCO-Stuff's pixel maps (`stuffthingmaps`, ids 0..181 and 255) fit as they are.

    Args:
        root: the folder.
        test: split that stands in where there is no `images/test`; None for an error instead.
        num_classes: names the classes "0".."K-1" where there is no `classes.txt`.
        contrast: names or ids of the classes that differ from all others but are not one thing
            (CONTRAST of `ops.labels`), such as the background of labelled objects. They are not
            among `class_names`.
        download: where to get the data, for the error of a missing root.
    """

    TREE = """  <folder>/                    <- data.root
    images/<split>/*.jpg
    labels/<split>/*.png       8-bit ids 0..K-1, 255 = ignore
    classes.txt                one name a line"""

    def __init__(
        self,
        root: str | Path | None,
        test: str | None = "val",
        num_classes: int | None = None,
        contrast: Sequence[str | int] = (),
        download: str = "the page of the data set, and lay it out as above",
    ) -> None:
        self.root = _require_root(root, "folder layout", self.TREE, download)
        self.test = test
        listing = self.root / "classes.txt"
        if listing.is_file():
            text = listing.read_text(encoding="utf-8")
            names = [line.strip() for line in text.splitlines() if line.strip()]
        elif num_classes is not None:
            names = [str(i) for i in range(num_classes)]
        else:
            raise DataError(
                f"{listing} is missing: name the classes there, one a line in the order of their "
                "ids, or set data.layout.num_classes"
            )
        self.contrast = tuple(contrast)
        try:
            self.label_map = LabelMap.identity(names, self.contrast)
        except ValueError as error:
            raise DataError(f"{listing}: {error}") from error
        self.class_names = self.label_map.class_names

    def prepare(self) -> None:
        """The files are the user's."""

    def records(self, split: str) -> list[Record]:
        photos = self.root / "images"
        if split == "test" and self.test and not (photos / split).is_dir():
            split = self.test
        folder = _split_folder(photos / split, photos.glob("*"))
        images = pictures(folder)
        labels = self.root / "labels" / split
        return _pair(images, lambda i: labels / f"{i.stem}.png", self.label_map, folder)


class Mixture:
    """Several data sets with label spaces of their own, for metric learning.

    The loss compares superpixels of one image only, so a label need not mean the same in two sets.

    Args:
        root: folder that holds the sets.
        layouts: what makes each set, called with `root=`, by the name of its folder.
        held_out: sets that are not trained on, to see what carries over: their train split
            validates (a recipe may be chosen by it) and their val split tests. Scores are means
            over their photos.
    """

    TREE = """  <folder>/                    <- data.root
    <set>/                     one folder a set, each in its own layout"""

    def __init__(
        self,
        root: str | Path | None,
        layouts: Mapping[str, Callable[..., Layout]],
        held_out: Sequence[str] = (),
    ) -> None:
        if not layouts:
            raise DataError("a mixture needs at least one data set in data.layout.layouts")
        if unknown := ", ".join(sorted(set(held_out) - set(layouts))):
            raise DataError(f"data.layout.held_out: {unknown} is none of {', '.join(layouts)}")
        if set(layouts) == set(held_out):
            raise DataError("data.layout.held_out leaves no set to train on: take one out of it")
        root = _require_root(root, "mixture", self.TREE, "the pages of its data sets")
        self.layouts = {name: make(root=root / name) for name, make in layouts.items()}
        self.held_out = tuple(held_out)
        self.class_names: tuple[str, ...] = ()  # there is no common label space
        self.contrast = tuple(c for layout in self.layouts.values() for c in layout.contrast)

    def prepare(self) -> None:
        for layout in self.layouts.values():
            layout.prepare()

    def records(self, split: str) -> list[Record]:
        if self.held_out and split != "train":
            chosen = set(self.held_out)
            split = {"val": "train", "test": "val"}[split]
        else:
            chosen = set(self.layouts) - set(self.held_out)
        return [
            replace(record, space=space)
            for space, (name, layout) in enumerate(self.layouts.items())
            if name in chosen
            for record in layout.records(split)
        ]


def label_spaces(layout: Layout) -> list[tuple[str, ...]]:
    """Names of the classes of each label space, by `Record.space`: one, but in a mixture."""
    layouts = layout.layouts.values() if isinstance(layout, Mixture) else [layout]
    return [each.class_names for each in layouts]

"""What a user does with one photo: a selection by clicks, and a list of layers to edit.

Nothing here knows of the page.

Legend: H W pixels of the photo, h w of the size at which it is analysed and shown, K layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.imaging.naming import layer_names
from softfeat.imaging.photo import Photo
from softfeat.layers import Layers
from softfeat.matting.colours import layer_colours
from softfeat.segmenter import LayerCount, OpenPhoto
from softfeat.selection import Cutout, cut_out

Point = tuple[float, float]
Direction = Literal["up", "down"]

_LONGEST_NAME = 60  # characters
NO_SELECTION = "nothing is selected: click on the photo first"
NO_LAYERS = "there are no layers yet: wait until they are found"


@dataclass(frozen=True)
class Marks:
    """What the user has marked.

    Attributes:
        include: Points (x, y) on the thing, in pixels of the photo.
        exclude: Points that are not on it.
        subject: Whether the selection starts from the subject of the photo.
    """

    include: tuple[Point, ...] = ()
    exclude: tuple[Point, ...] = ()
    subject: bool = False

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude or self.subject)


@dataclass(eq=False)
class Entry:
    """A layer in the list of the user.

    Attributes:
        key: Identifies the layer, whatever its name and place.
        name: Name for people.
        matte: (H,W) in [0,1] for a layer that was added; None for one that was found.
        shown: Whether it is visible.
    """

    key: str
    name: str
    matte: NDArray[np.float32] | None = None
    shown: bool = True


@dataclass(eq=False)
class Work:
    """A photo with its selection and its layers.

    Attributes:
        photo: The photo, with its features.
        grow: Pixels by which the border of the selection moves outwards.
        feather: Pixels over which it is blurred.
        entries: The layers, lowest first.
    """

    photo: OpenPhoto
    grow: float = 0
    feather: float = 0
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._history = [Marks()]
        self._found: Layers | None = None
        self._number = 0  # of layers that were added so far
        self._before_solo: set[str] | None = None
        self._mattes: dict[tuple[object, ...], NDArray[np.float32]] = {}
        self._alphas: dict[str, NDArray[np.float32]] = {}  # by key
        self._small: dict[str, tuple[NDArray[np.float32], NDArray[np.uint8]]] = {}

    @property
    def small(self) -> NDArray[np.uint8]:
        """(h,w,3) sRGB, the photo as it is shown."""
        return self.photo.selector.small

    @property
    def features(self) -> NDArray[np.floating] | None:
        """(h,w,3) in [0,1], the features that the layers follow; None before there are layers."""
        return None if self._found is None else self._found.features

    # The selection

    @property
    def marks(self) -> Marks:
        """What is marked now."""
        return self._history[-1]

    def click(self, x: float, y: float, include: bool = True) -> None:
        """Adds a point.

        Args:
            x: Column, in pixels of the photo as it is shown.
            y: Row.
            include: Whether the point is on the thing, or not on it.

        Raises:
            ValueError: The point is not on the photo.
        """
        height, width = self.small.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"{x:g}, {y:g} is not on the photo of {width}x{height} pixels")
        rows, columns = self.photo.selector.original.pixels.shape[:2]
        point = ((x + 0.5) * columns / width, (y + 0.5) * rows / height)
        marks = self.marks
        if include:
            marks = replace(marks, include=(*marks.include, point))
        else:
            marks = replace(marks, exclude=(*marks.exclude, point))
        self._history.append(marks)

    def choose_subject(self) -> None:
        """Selects the subject of the photo."""
        self._history.append(Marks(subject=True))

    def clear(self) -> None:
        """Removes the selection."""
        if self.marks:
            self._history.append(Marks())

    def undo(self) -> None:
        """Takes back the last click, or the last time that the selection was removed."""
        if len(self._history) > 1:
            self._history.pop()

    def shown_points(self) -> tuple[list[Point], list[Point]]:
        """The points to include and to exclude, in pixels of the photo as it is shown."""
        rows, columns = self.photo.selector.original.pixels.shape[:2]
        height, width = self.small.shape[:2]

        def on_small(points: Sequence[Point]) -> list[Point]:
            return [(x * width / columns, y * height / rows) for x, y in points]

        return on_small(self.marks.include), on_small(self.marks.exclude)

    def matte(self, preview: bool = True) -> NDArray[np.float32] | None:
        """The selection.

        Args:
            preview: Whether to return it as (h,w) instead of (H,W).

        Returns:
            Values in [0,1]; None if nothing is selected.
        """
        if not self.marks:
            return None
        key = (self.marks, self.grow, self.feather, preview)
        if key not in self._mattes:
            matte = self._select(preview).clip(0, 1)
            self._mattes = {key: matte}  # the last one only
        return self._mattes[key]

    def _select(self, preview: bool) -> NDArray[np.float32]:
        marks, prior = self.marks, None
        if marks.subject and (marks.include or marks.exclude):
            prior = self.photo.select(preview=True).clip(0, 1)
        return self.photo.select(
            marks.include,
            marks.exclude,
            mask=prior,
            grow=self.grow,
            feather=self.feather,
            preview=preview,
        )

    def cutout(self) -> Cutout:
        """Cuts the selection out.

        Raises:
            ValueError: Nothing is selected.
        """
        matte = self.matte(preview=False)
        if matte is None:
            raise ValueError(NO_SELECTION)
        return cut_out(self.photo.selector.original, matte)

    # The layers

    def use(self, layers: Layers) -> None:
        """Replaces the layers that were found. Layers that were added stay on top of them."""
        names = layer_names(layers.original, layers.alphas)
        found = [Entry(f"found {k}", name) for k, name in enumerate(names)]
        self._found, self._before_solo = layers, None
        self.entries = found + [entry for entry in self.entries if entry.matte is not None]
        self._refresh()

    def find_layers(self, count: LayerCount) -> Layers:
        """Divides the photo, without a change of the list; see `use`."""
        return self.photo.layers(count)

    def entry(self, key: str | None) -> Entry:
        """The layer with this key.

        Raises:
            ValueError: There is none.
        """
        for entry in self.entries:
            if entry.key == key:
                return entry
        raise ValueError("choose a layer first")

    def show(self, keys: Sequence[str]) -> None:
        """Shows these layers and hides all others."""
        for entry in self.entries:
            entry.shown = entry.key in keys
        self._before_solo = None

    def solo(self, key: str | None) -> None:
        """Shows one layer alone. The second time, shows again what was shown before."""
        alone = self.entry(key)
        shown = {entry.key for entry in self.entries if entry.shown}
        before = self._before_solo
        if before is not None and shown == {alone.key}:
            self.show(list(before))
            return
        self.show([alone.key])
        self._before_solo = shown if before is None else before

    def move(self, key: str | None, direction: Direction) -> None:
        """Exchanges a layer with the one above or below it."""
        place = self.entries.index(self.entry(key))
        other = place + (1 if direction == "up" else -1)
        if 0 <= other < len(self.entries):
            both = self.entries[place], self.entries[other]
            self.entries[other], self.entries[place] = both

    def rename(self, key: str | None, name: str) -> None:
        """Gives a layer another name.

        Raises:
            ValueError: The name is empty.
        """
        readable = "".join(c for c in name if c.isprintable()).strip()[:_LONGEST_NAME]
        if not readable:
            raise ValueError("the name is empty: write one")
        self.entry(key).name = readable

    def add_selection(self) -> Entry:
        """Adds the selection as the top layer. It takes its alpha from all others.

        Raises:
            ValueError: Nothing is selected, or there are no layers.
        """
        matte = self.matte(preview=False)
        if matte is None:
            raise ValueError(NO_SELECTION)
        if self._found is None:
            raise ValueError(NO_LAYERS)
        self._number += 1
        entry = Entry(f"added {self._number}", f"selection {self._number}", matte)
        self.entries.append(entry)
        self._refresh()
        return entry

    def remove(self, key: str | None) -> None:
        """Removes a layer that was added. Its alpha returns to the others.

        Raises:
            ValueError: The layer was found. It can only be hidden.
        """
        entry = self.entry(key)
        if entry.matte is None:
            raise ValueError("only layers that you have added can be removed: hide this one")
        self.entries.remove(entry)
        self._refresh()

    def layers(self) -> Layers:
        """All layers in the order of the list.

        Raises:
            ValueError: There are none.
        """
        if self._found is None:
            raise ValueError(NO_LAYERS)
        return replace(
            self._found, alphas=np.stack([self._alphas[entry.key] for entry in self.entries])
        )

    def names(self) -> list[str]:
        """Names of the layers, lowest first."""
        return [entry.name for entry in self.entries]

    def preview(self, entry: Entry) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Alpha (h,w) in [0,1] and own colours (h,w,3) of a layer."""
        return self._small[entry.key]

    def _refresh(self) -> None:
        """Computes the alphas of all layers again. They add up to 1 at every pixel."""
        assert self._found is not None
        shares = {f"found {k}": alpha for k, alpha in enumerate(self._found.alphas)}
        for entry in sorted(self.entries, key=lambda entry: _added_number(entry.key)):
            if entry.matte is not None:
                rest = 1 - entry.matte
                shares = {key: share * rest for key, share in shares.items()}
                shares[entry.key] = entry.matte
        self._alphas = shares
        height, width = self.small.shape[:2]
        small = np.stack([_reduced(alpha, height, width) for alpha in shares.values()])
        colours = layer_colours(Photo(self.small), small)
        self._small = {
            key: (alpha, own) for key, alpha, own in zip(shares, small, colours, strict=True)
        }


def _added_number(key: str) -> int:
    kind, number = key.split()
    return int(number) if kind == "added" else 0


def _reduced(alpha: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if alpha.shape == (height, width):
        return alpha
    return np.asarray(Image.fromarray(alpha).resize((width, height), Image.Resampling.BOX))

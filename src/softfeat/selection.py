"""Things cut out by clicks: a photo is analysed once, then each click takes a moment.

Legend: H W pixels of the photo, h w of the size at which it is analysed, S superpixels, D feature
channels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor
from scipy import ndimage, sparse
from torch import Tensor

from softfeat.imaging import documents
from softfeat.imaging.convert import (
    eight_bits,
    ids_tensor,
    planes_of,
    to_float,
    to_tensor,
    to_whole,
)
from softfeat.imaging.images import resize_image
from softfeat.imaging.photo import Photo
from softfeat.imaging.raster import Depth
from softfeat.imaging.slic import Superpixels
from softfeat.matting.border import Guide, refine_border
from softfeat.matting.colours import layer_colours
from softfeat.matting.laplacian import matting_laplacian
from softfeat.matting.layers import upsample_alphas
from softfeat.models.click_network import (
    ClickNetwork,
    Description,
    Nodes,
    Prompt,
    box_shares,
    make_nodes,
    no_prompt,
)
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixel_graph import connected_components, find_neighbours
from softfeat.ops.superpixels import superpixel_mean

SUPERPIXELS = 1000
NO_CLICKS = (
    "these weights answer no clicks: choose weights=general, or train a click network on them "
    "(python -m src.train experiment=clicks_objects model.features_checkpoint=...)"
)
_PIXELS_PER_SUPERPIXEL = 16  # at least, in small photos
_SMALL = 0.1  # specks and holes, as a share of the thing
_REMEMBERED = 256  # answers of a photo
_BAND = 0.8  # half the width of the soft border, in sides of a superpixel
Point = Sequence[float]
Box = Sequence[float]
Backend = Literal["fast_slic", "skimage"]


@dataclass(frozen=True, eq=False)
class Cutout:
    """A part of a photo, cut out softly.

    Attributes:
        matte: (H,W) in [0,1].
        photo: The part in its own colours, without fringes of its surroundings. Its alpha is the
            matte times the alpha of the whole photo.
    """

    matte: NDArray[np.float32]
    photo: Photo

    @property
    def image(self) -> Image.Image:
        """RGBA picture of 8 bits, in the photo's own colours, with its profile."""
        pixels, alpha = self.photo.pixels, self.photo.alpha
        rgba = np.dstack([pixels, alpha]) if alpha is not None else pixels
        picture = Image.fromarray(eight_bits(rgba))
        if self.photo.profile is not None:
            picture.info["icc_profile"] = self.photo.profile
        return picture

    def over(self, background: str | Photo) -> Photo:
        """Puts the part in front of a background.

        Args:
            background: A colour, as "white" or "#rrggbb", or a photo, which is enlarged or reduced
                until it covers the picture, and cropped at its centre.

        Returns:
            An opaque photo. In front of a grey, such as white, it keeps the profile and the bits of
            the photo. Otherwise it is in sRGB of 8 bits, the colours of the background.

        Raises:
            ValueError: There is no such colour.
        """
        height, width = self.matte.shape
        part = self.photo
        if isinstance(background, str):
            colour = colour_of(background)
            if colour is None:
                raise ValueError(f"background={background}: choose a colour such as #ff8800")
            behind = np.full((height, width, 3), colour, np.float64)
        else:
            behind = covering(background.srgb, height, width) / 255
        if not isinstance(background, str) or np.ptp(behind[0, 0]):
            opacity = None if part.alpha is None else eight_bits(part.alpha)
            part = Photo(replace(part, alpha=None).srgb, opacity, None, part.metadata)
        if part.alpha is None:
            return part
        most = np.iinfo(part.pixels.dtype).max
        share = part.alpha[..., None] / np.float32(most)  # (H,W,1)
        blended = share * part.pixels + (1 - share) * most * behind
        return replace(part, pixels=np.rint(blended).astype(part.pixels.dtype), alpha=None)

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Writes a PNG with the bits, the profile and the metadata of the photo.

        Args:
            file: File, or an open file.
        """
        documents.save_png(file, self.photo)


def colour_of(text: str) -> tuple[float, float, float] | None:
    """Reads a colour, as "white" or "#rrggbb", to RGB in [0,1]; None if it is none."""
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        return None
    return red / 255, green / 255, blue / 255


def covering(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scales a picture until it covers a size, and crops it at its centre."""
    scale = max(height / picture.shape[0], width / picture.shape[1])
    rows, columns = (round(side * scale) for side in picture.shape[:2])
    size = (max(height, rows), max(width, columns))
    large = resize_image(picture, size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[top : top + height, left : left + width]


def part_of(photo: Photo, colours: NDArray[Depth], alpha: NDArray[np.float32]) -> Photo:
    """A part of a photo.

    Args:
        photo: The photo.
        colours: (H,W,3) colours of the part, with the bits of the photo.
        alpha: (H,W) in [0,1], multiplied with the photo's own alpha.
    """
    own = np.iinfo(colours.dtype).max if photo.alpha is None else photo.alpha
    return replace(photo, pixels=colours, alpha=to_whole(alpha, own, colours.dtype.type))


def cut_out(photo: Photo, matte: NDArray[np.float32], decontaminate: bool = True) -> Cutout:
    """Cuts out what a matte covers.

    Args:
        photo: The photo.
        matte: (H,W) in [0,1].
        decontaminate: Whether pixels of the border get the part's own colours, without those of
            its surroundings.
    """
    colours = photo.pixels
    if decontaminate:
        colours = layer_colours(photo, np.stack([matte, 1 - matte]))[0]
    return Cutout(matte, part_of(photo, colours, matte))


def shift_border(matte: NDArray[np.float32], pixels: float) -> NDArray[np.float32]:
    """Moves the border of a matte outwards, or inwards for a negative number of pixels.

    Args:
        matte: (H,W) in [0,1].
        pixels: How far.
    """
    if pixels < 0:
        return 1 - shift_border(1 - matte, -pixels)
    inside = matte >= 0.5
    if not pixels or not inside.any():
        return matte
    # From the middle of the soft border, which keeps its own slope beyond the moved one.
    distance = ndimage.distance_transform_edt(~inside)
    grown = (pixels + 0.5 - distance).clip(0, 1).astype(np.float32)
    return np.maximum(matte, grown)


def feather_border(matte: NDArray[np.float32], pixels: float) -> NDArray[np.float32]:
    """Blurs the border of a matte.

    Args:
        matte: (H,W) in [0,1].
        pixels: Width of the blur: twice the standard deviation of a Gaussian.
    """
    return ndimage.gaussian_filter(matte, pixels / 2, mode="nearest") if pixels else matte


@dataclass(frozen=True, eq=False)
class Selector:
    """Cuts things out of one photo, by clicks, a box or a rough mask.

    Points are (x, y) in pixels of the photo. Boxes are left, top, right and bottom, the last two
    exclusive.

    Attributes:
        original: The photo.
        small: (h,w,3) sRGB, the photo at the size at which it is analysed.
        superpixels: (h,w) ids 0..S-1.
        features: (S,D) mean features of the superpixels.
        network: The network that answers clicks; None if the weights have none.
    """

    original: Photo
    small: NDArray[np.uint8]
    superpixels: NDArray[np.uint16]
    features: NDArray[np.float32]
    network: ClickNetwork | None
    _answers: dict[tuple[object, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        original: Photo,
        small: NDArray[np.uint8],
        maps: NDArray[np.float32],
        network: ClickNetwork | None,
        backend: Backend = "fast_slic",
    ) -> "Selector":
        """Analyses a photo.

        Args:
            original: The photo.
            small: (h,w,3) the photo in sRGB, reduced.
            maps: Features of the photo, of any size.
            network: The network that answers clicks.
            backend: Library that computes the superpixels.
        """
        count = min(SUPERPIXELS, max(2, small.shape[0] * small.shape[1] // _PIXELS_PER_SUPERPIXEL))
        superpixels = Superpixels(count, backend=backend)(small)
        number = int(superpixels.max()) + 1
        means, _ = pyramid_superpixel_mean([to_tensor(maps)], ids_tensor(superpixels), number)
        return cls(original, small, superpixels, means[0].numpy(), network)

    @staticmethod
    def check(
        photo: Photo,
        include: Sequence[Point | Sequence[Point]] = (),
        exclude: Sequence[Point | Sequence[Point]] = (),
        box: Box | None = None,
    ) -> None:
        """Raises ValueError if clicks or a box are not on a photo."""
        height, width = photo.pixels.shape[:2]
        _scribbles("include", include, height, width)
        _scribbles("exclude", exclude, height, width)
        if box is not None:
            _check_box(box, height, width)

    def prepare(self) -> "Selector":
        """Computes now what the first click would compute, in about a second."""
        self._laplacian, self._guide, self._described  # noqa: B018
        return self

    def select(
        self,
        include: Sequence[Point | Sequence[Point]] = (),
        exclude: Sequence[Point | Sequence[Point]] = (),
        box: Box | None = None,
        mask: NDArray | None = None,
        *,
        grow: float = 0,
        feather: float = 0,
        preview: bool = False,
    ) -> NDArray[np.float32]:
        """Finds the matte of a thing.

        Without clicks, box and mask it is the subject of the photo.

        Args:
            include: Points on the thing. A scribble is a list of points in place of a point.
            exclude: Points or scribbles that are not on it.
            box: A box around it.
            mask: (H,W) or (h,w) in [0,1], drawn by hand, to be made exact.
            grow: Pixels by which the border moves outwards; negative to shrink.
            feather: Pixels over which the border is blurred.
            preview: Whether to return the matte at the size of `small`, which is faster.

        Returns:
            (H,W) in [0,1], or (h,w).

        Raises:
            ValueError: Something is not on the photo, or the weights have no click network.
        """
        size = self.original.pixels.shape[:2]
        marks = _scribbles("include", include, *size), _scribbles("exclude", exclude, *size)
        if box is not None:
            _check_box(box, *size)
        selected = self._selected(*marks, box, mask)[self.superpixels]
        width = _BAND * (selected.size / len(self.features)) ** 0.5
        with torch.inference_mode():
            matte = refine_border(
                self._guide, self._laplacian, selected, width, self._marked(marks)
            )
            if not preview:
                pair = torch.from_numpy(np.stack([matte, 1 - matte]))  # (2,h,w)
                matte = upsample_alphas(pair, planes_of(self.original.srgb))[0].numpy()
        scale = matte.shape[1] / self.original.pixels.shape[1]
        return feather_border(shift_border(matte, grow * scale), feather * scale)

    def cutout(
        self,
        include: Sequence[Point | Sequence[Point]] = (),
        exclude: Sequence[Point | Sequence[Point]] = (),
        box: Box | None = None,
        mask: NDArray | None = None,
        *,
        grow: float = 0,
        feather: float = 0,
        decontaminate: bool = True,
    ) -> Cutout:
        """Cuts a thing out.

        Args:
            include: See `select`, as for all others but the last.
            exclude: See `select`.
            box: See `select`.
            mask: See `select`.
            grow: See `select`.
            feather: See `select`.
            decontaminate: Whether pixels of the border get the thing's own colours, without those
                of its surroundings.

        Raises:
            ValueError: See `select`.
        """
        matte = self.select(include, exclude, box, mask, grow=grow, feather=feather)
        return cut_out(self.original, matte, decontaminate)

    @cached_property
    def _nodes(self) -> Nodes:
        ids = ids_tensor(self.superpixels)  # (1,h,w)
        return make_nodes(
            to_tensor(self.small),
            ids,
            torch.from_numpy(self.features)[None],
            find_neighbours(ids, len(self.features)),
        )

    @cached_property
    def _click_network(self) -> ClickNetwork:
        if self.network is None:
            raise ValueError(NO_CLICKS)
        return self.network

    @cached_property
    @torch.inference_mode()
    def _described(self) -> Description:
        return self._click_network.describe(self._nodes)

    @cached_property
    def _guide(self) -> Guide:
        return Guide(self.small)

    @cached_property
    def _laplacian(self) -> sparse.csr_array:
        return matting_laplacian(to_float(self.small, np.float64))

    @torch.inference_mode()
    def _probability(
        self,
        include: Sequence[NDArray[np.float64]],
        exclude: Sequence[NDArray[np.float64]],
        box: Box | None,
        mask: NDArray | None,
    ) -> NDArray[np.float32]:
        """Computes the probability (S,) of each superpixel to belong to the thing."""
        prompt = no_prompt(self._nodes)
        said: tuple[object, ...] = ()  # so far
        if box is not None:
            scale = self.small.shape[1] / self.original.pixels.shape[1]
            inside = [round(edge * scale) for edge in box]
            shares = box_shares(ids_tensor(self.superpixels), len(self.features), [inside])
            prompt, said = prompt._replace(box=shares), (*said, tuple(inside))
        if mask is not None:
            prior = 2 * self._mask_shares(mask) - 1
            prompt, said = prompt._replace(prior=prior), (*said, prior.numpy().tobytes())
        answer = None
        if said or not (include or exclude):
            answer = self._answer(said, prompt)
        for points, sign in _in_turn(include, exclude):
            places = self._clicked(points)
            clicked = torch.from_numpy(places)[None]  # (1,N)
            prompt = Prompt(
                torch.cat([prompt.clicks, clicked], 1),
                torch.cat([prompt.signs, torch.full(clicked.shape, sign)], 1),
                prompt.box,
                prompt.prior if answer is None else 2 * answer - 1,
            )
            said = (*said, (places.tobytes(), sign))
            answer = self._answer(said, prompt)
        assert answer is not None
        # Whatever the network thinks, clicked places are what the user says.
        certain = answer.clone()
        certain[0, prompt.clicks[0]] = (prompt.signs[0] + 1) / 2
        return certain[0].numpy()

    @torch.inference_mode()
    def _selected(
        self,
        include: Sequence[NDArray[np.float64]],
        exclude: Sequence[NDArray[np.float64]],
        box: Box | None,
        mask: NDArray | None,
    ) -> NDArray[np.bool_]:
        """Finds the superpixels (S,) of the thing, without specks and small holes.

        Regions that the user has clicked on stay as they are, and so does what touches the border
        of the photo.
        """
        nodes = self._nodes
        selected = torch.from_numpy(self._probability(include, exclude, box, mask) > 0.5)  # (S,)
        marked = torch.zeros_like(selected)
        for points in (*include, *exclude):
            marked[torch.from_numpy(self._clicked(points))] = True
        region = connected_components(selected.long()[None], nodes.neighbours)[0]  # (S,)
        area = torch.zeros(len(region)).index_add_(0, region, nodes.counts[0].float())  # by region
        area = area[region]  # (S,)
        kept = _any_in(region, marked)
        whole = nodes.counts[0][selected].sum()
        largest = torch.where(selected, area, 0).max()
        hole = ~selected & ~kept & ~_any_in(region, nodes.border[0] > 0) & (area < _SMALL * whole)
        speck = selected & ~kept & (area < _SMALL * largest)
        return ((selected | hole) & ~speck).numpy()

    def _answer(self, said: tuple[object, ...], prompt: Prompt) -> Tensor:
        """The network's answer (1,S) to a prompt. Each click builds on the answer before it.

        Args:
            said: What the user said, in order, by which answers are remembered.
            prompt: The same for the network.
        """
        if said not in self._answers:
            if len(self._answers) >= _REMEMBERED:
                self._answers.pop(next(iter(self._answers)))  # the oldest
            scores = self._click_network(self._nodes, prompt, self._described)
            self._answers[said] = scores.sigmoid()
        return self._answers[said]

    def _places(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns (n,) of the reduced photo at points (n,2)."""
        height, width = self.superpixels.shape
        scale = width / self.original.pixels.shape[1], height / self.original.pixels.shape[0]
        x, y = (points * scale).astype(np.int64).T
        return y.clip(0, height - 1), x.clip(0, width - 1)

    def _clicked(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """The superpixels at points (n,2)."""
        return np.unique(self.superpixels[self._places(points)]).astype(np.int64)

    def _marked(self, marks: Sequence[Sequence[NDArray[np.float64]]]) -> NDArray[np.bool_]:
        """(h,w) the pixels of all clicks and scribbles."""
        mask = np.zeros(self.superpixels.shape, bool)
        for each in marks:
            for points in each:
                mask[self._places(points)] = True
        return mask

    def _mask_shares(self, mask: NDArray) -> Tensor:
        """The share (1,S) of each superpixel in a mask."""
        rough = np.asarray(mask, np.float32)
        allowed = (self.original.pixels.shape[:2], self.superpixels.shape)
        if rough.shape not in allowed or not np.isfinite(rough).all():
            raise ValueError(
                f"mask {rough.shape} does not fit the photo {allowed[0]}: draw it at this size, "
                "with values in [0,1]"
            )
        if rough.min() < 0 or rough.max() > 1:
            raise ValueError("mask: its values must be in [0,1]; divide by 255")
        size = self.superpixels.shape
        small = np.asarray(
            Image.fromarray(rough).resize((size[1], size[0]), Image.Resampling.BOX)
        ).copy()
        shares, _ = superpixel_mean(
            torch.from_numpy(small)[None, None], ids_tensor(self.superpixels), len(self.features)
        )
        return shares[..., 0]


def _any_in(region: Tensor, mask: Tensor) -> Tensor:
    """For each superpixel (S,), whether the mask (S,) is true anywhere in its region (S,)."""
    count = torch.zeros(len(region)).index_add_(0, region, mask.float())
    return count[region] > 0


def _scribbles(
    name: str, marks: Sequence[Point | Sequence[Point]], height: int, width: int
) -> list[NDArray[np.float64]]:
    """Checks points and scribbles on a photo, and returns the pixels (n,2) of each."""
    drawn = []
    for mark in marks:
        try:
            points = np.atleast_2d(np.asarray(mark, np.float64))  # (n,2)
        except (TypeError, ValueError):
            points = np.zeros(0)
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(f"{name}={mark}: give points (x, y), or lists of them")
        inside = (points >= 0) & (points < (width, height))
        if not inside.all():  # false for NaN
            x, y = points[~inside.all(1)][0]
            raise ValueError(
                f"point {x:g}, {y:g} is outside the photo of {width}x{height} pixels: "
                f"choose x in 0..{width - 1} and y in 0..{height - 1}"
            )
        drawn.append(_line(points))
    return drawn


def _check_box(box: Box, height: int, width: int) -> None:
    fits = len(box) == 4 and 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    if not fits:
        raise ValueError(
            f"box {', '.join(map(str, box))} is empty or not inside the photo of "
            f"{width}x{height} pixels"
        )


def _line(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fills in the pixels between the points (n,2) of a scribble."""
    parts = [points[:1]]
    for start, end in pairwise(points):
        steps = max(1, int(np.abs(end - start).max()))
        parts.append(start + (end - start) * np.arange(1, steps + 1)[:, None] / steps)
    return np.concatenate(parts)


def _in_turn(
    include: Sequence[NDArray[np.float64]], exclude: Sequence[NDArray[np.float64]]
) -> list[tuple[NDArray[np.float64], float]]:
    """Orders clicks with their signs: one that includes, one that excludes, and so on."""
    both = [[(mark, 1.0) for mark in include], [(mark, -1.0) for mark in exclude]]
    return [marks[n] for n in range(max(map(len, both))) for marks in both if n < len(marks)]

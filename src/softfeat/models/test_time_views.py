"""Class scores averaged over several views of a photo: windows, mirror images and scales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.checks import flag, number, whole_numbers
from softfeat.ops.sizes import ceil_div


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B,C,H,W) bilinearly."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def _starts(length: int, window: int) -> list[int]:
    """Find the starts of windows that cover `length` pixels and overlap by at least half."""
    if length <= window:
        return [0]
    count = ceil_div(length - window, max(1, window // 2)) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


@dataclass(frozen=True)
class Views:
    """Average of class scores over views of a photo at test time.

    Attributes:
        window: Height and width of sliding windows that overlap by half, in pixels of the (resized)
            photo. None uses the whole photo.
        flip: Whether to average with the mirror image.
        scales: Factors by which the photo is resized. The scores of all sizes are averaged.
    """

    window: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if isinstance(self.scales, int | float) or isinstance(self.window, int):
            raise ValueError(
                f"views.scales={self.scales} and views.window={self.window} must be lists: "
                "scales=[1.0], window=[H,W]"
            )
        flag("views.flip", self.flip)
        if not isinstance(self.scales, Sequence) or isinstance(self.scales, str) or not self.scales:
            raise ValueError(f"views.scales={self.scales}: give a list such as [1.0]")
        for scale in self.scales:
            number("views.scales", scale, 0.01, 100)
        if self.window is not None:
            whole_numbers("views.window", self.window, 1, count=2)

    def __call__(self, scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Average the class probabilities of all views.

        Args:
            scores: Function from photos (B,3,h,w) to scores (B,K,h',w').
            image: Photos (B,3,H,W) RGB in [0,1].

        Returns:
            Mean probabilities (B,K,H,W). With a single view, the scores (B,K,h',w') as they are.
        """
        if self.window is None and not self.flip and tuple(self.scales) == (1.0,):
            return scores(image)
        size = image.shape[-2:]
        probabilities = []
        for scale in self.scales:
            scaled = _resize(image, [max(1, round(n * scale)) for n in size])
            probabilities.append(_resize(self._windows(scores, scaled), size))
            if self.flip:
                mirrored = self._windows(scores, scaled.flip(-1))
                probabilities.append(_resize(mirrored.flip(-1), size))
        return torch.stack(probabilities).mean(0)

    def _windows(self, scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Average the probabilities (B,K,H,W) over the windows that cover each pixel."""
        height, width = image.shape[-2:]
        rows, cols = self.window or (height, width)
        total = image.new_zeros(())
        covered = image.new_zeros(1, 1, height, width)
        for top in _starts(height, rows):
            for left in _starts(width, cols):
                place = (..., slice(top, top + rows), slice(left, left + cols))
                part = image[place]
                result = _resize(scores(part), part.shape[-2:]).softmax(1)
                if not total.dim():
                    total = result.new_zeros(*result.shape[:2], height, width)
                total[place] += result
                covered[place] += 1
        return total / covered


ONE_VIEW = Views()

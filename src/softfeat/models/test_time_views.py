"""Class scores from several views of a photo: windows, mirror images, scales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def _starts(length: int, window: int) -> list[int]:
    """Starts of windows that cover `length` with at least half overlap."""
    if length <= window:
        return [0]
    count = -(-(length - window) // max(1, window // 2)) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


@dataclass(frozen=True)
class Views:
    """How scores are averaged over views at test time.

    Attributes:
        window: (H, W) of sliding windows that overlap by half, in pixels of the (resized) photo;
            None for all of it.
        flip: average with the mirror image.
        scales: of the photo, whose scores are averaged.
    """

    window: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if isinstance(self.scales, int | float) or isinstance(self.window, int):
            raise ValueError("views.scales and views.window are lists: scales=[1.0], window=[H,W]")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"views.scales={self.scales}: give positive numbers")
        if self.window is not None and (len(self.window) != 2 or min(self.window) < 1):
            raise ValueError(f"views.window={self.window}: give [height, width], or null")

    def __call__(self, scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Averages probabilities.

        Args:
            scores: of photos (B,3,h,w), gives (B,K,h',w').
            image: (B,3,H,W).

        Returns:
            (B,K,H,W) mean probabilities; what `scores` gives where there is one view only.
        """
        if self.window is None and not self.flip and tuple(self.scales) == (1.0,):
            return scores(image)
        size = image.shape[-2:]
        probabilities = []
        for scale in self.scales:
            scaled = _resize(image, [max(1, round(n * scale)) for n in size])
            for flipped in (False, True)[: 1 + self.flip]:
                view = self._windows(scores, scaled.flip(-1) if flipped else scaled)
                probabilities.append(_resize(view.flip(-1) if flipped else view, size))
        return torch.stack(probabilities).mean(0)

    def _windows(self, scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Probabilities (B,K,H,W), mean over the windows that cover a pixel."""
        height, width = image.shape[-2:]
        rows, cols = self.window or (height, width)
        total, covered = image.new_zeros(()), image.new_zeros(1, 1, height, width)
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

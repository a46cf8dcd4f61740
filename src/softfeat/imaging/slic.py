"""SLIC superpixels: fast-slic, wrapped so that its traps cannot spring, or scikit-image by choice.

This module imports neither torch nor Lightning: loader workers and matting use it alike.
"""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_REPAIR = (
    "pip install setuptools wheel cython numpy && pip install --no-build-isolation fast-slic==0.4.0"
)
_MAX_COUNT = 32767  # fast-slic hands out int16 labels


@cache
def _fast_slic_class() -> Any:
    """The fastest variant this machine has; all give the same maps."""
    try:
        import fast_slic
    except ImportError as error:
        raise ImportError(
            f"fast-slic is not installed or does not load ({error}). It is built from source with "
            f"a C++ compiler: `{_REPAIR}` (make clean install does it). Or choose "
            "scikit-image, which is slower: --backend skimage, or superpixels.backend=skimage "
            "(of a training or an evaluation data.superpixels.backend=skimage)"
        ) from error
    if "x64/avx2" in fast_slic.supported_archs:
        from fast_slic.avx2 import SlicAvx2

        return SlicAvx2
    return fast_slic.Slic


@dataclass(frozen=True)
class Superpixels:
    """Parameters of a superpixel map; call it with a photo to get the map.

    Attributes:
        count: requested number, 1..32767; connectivity is enforced, so fewer may come out.
        compactness: weight of position against Lab colour.
        iterations: of the k-means.
        backend: "fast_slic", or "skimage" where that cannot be built.
        mode: "stored": computed once per photo by `prepare_data`; "online": computed in the
            loader's workers after augmentation, so that maps fit the augmented picture.
    """

    count: int = 500
    compactness: float = 10.0
    iterations: int = 10
    backend: Literal["fast_slic", "skimage"] = "fast_slic"
    mode: Literal["stored", "online"] = "stored"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MAX_COUNT:
            raise ValueError(f"superpixels.count={self.count}: choose 1..{_MAX_COUNT}")
        if self.backend not in ("fast_slic", "skimage"):
            raise ValueError(f"superpixels.backend={self.backend}: choose fast_slic or skimage")
        if self.mode not in ("stored", "online"):
            raise ValueError(f"superpixels.mode={self.mode}: choose stored or online")

    def check_backend(self) -> None:
        """Raises ImportError with the command that repairs it where the backend is missing."""
        if self.backend == "fast_slic":
            _fast_slic_class()

    def identity(self) -> dict[str, Any]:
        """Everything that decides a map besides the photo, for the store's key."""
        self.check_backend()
        package = {"fast_slic": "fast-slic", "skimage": "scikit-image"}[self.backend]
        parameters = {k: v for k, v in asdict(self).items() if k != "mode"}
        parameters["compactness"] = float(self.compactness)  # 10 and 10.0 are one key
        return parameters | {"version": version(package)}

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Segments a photo.

        Args:
            image: (H,W,3) uint8 RGB.

        Returns:
            (H,W) uint16, ids 0..n-1 without gaps, each 4-connected, n <= count.

        Raises:
            ValueError: not a uint8 RGB picture.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"superpixels need a (H,W,3) uint8 RGB picture, got {image.dtype} {image.shape}"
            )
        # More components than pixels kill the process (SIGFPE) inside fast-slic.
        count = min(self.count, image.shape[0] * image.shape[1])
        if self.backend == "skimage":
            return self._skimage(image, count)
        # A fresh object per photo, for it would continue from the last one's clusters; one thread,
        # for its OpenMP threads spin on a busy machine.
        slic = _fast_slic_class()(num_components=count, compactness=self.compactness, num_threads=1)
        return slic.iterate(np.ascontiguousarray(image), self.iterations).view(np.uint16)

    def _skimage(self, image: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
        from skimage.segmentation import slic

        requested = count
        while True:  # it may give more than requested
            labels = slic(
                image,
                n_segments=requested,
                compactness=self.compactness,
                max_num_iter=self.iterations,
                start_label=0,
            )
            found = int(labels.max()) + 1
            if found <= count:
                return labels.astype(np.uint16)
            requested = max(1, requested * count // (found + 1))

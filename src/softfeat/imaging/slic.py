"""SLIC superpixels by fast-slic, or by scikit-image.

The wrapper avoids the pitfalls of fast-slic: it crashes when asked for more superpixels than
pixels, and an object that is used twice continues from its last result.

This module imports neither torch nor Lightning, since the workers of the data loader use it.
"""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from softfeat.checks import number, one_of, whole

_REPAIR = (
    "pip install setuptools wheel cython numpy && pip install --no-build-isolation fast-slic==0.4.0"
)
_MAX_COUNT = 32767  # fast-slic returns int16 labels


@cache
def _fast_slic_class() -> Any:
    """Choose the fastest variant that this machine supports. All compute the same maps."""
    try:
        import fast_slic
    except ImportError as error:
        raise ImportError(
            f"fast-slic is not installed or does not load ({error}). It is built from source with "
            f"a C++ compiler: run `{_REPAIR}`, or in a checkout `make clean install`. Or choose "
            "scikit-image, which is slower: --backend skimage, or superpixels.backend=skimage (for "
            "a training or an evaluation data.superpixels.backend=skimage)"
        ) from error
    if "x64/avx2" in fast_slic.supported_archs:
        from fast_slic.avx2 import SlicAvx2

        return SlicAvx2
    return fast_slic.Slic


@dataclass(frozen=True)
class Superpixels:
    """Parameters of superpixel maps. Calling the object with a photo computes its map.

    Attributes:
        count: Requested number of superpixels, 1..32767. Connectivity is enforced, so there may be
            fewer.
        compactness: Weight of position relative to Lab colour.
        iterations: Number of k-means iterations.
        backend: Library, "fast_slic" or "skimage". The latter needs no compiler.
        mode: Time of computation. "stored" computes the map of each photo once, in `prepare_data`.
            "online" computes it in the workers of the data loader after augmentation, so that the
            map fits the augmented photo.
    """

    count: int = 500
    compactness: float = 10.0
    iterations: int = 10
    backend: Literal["fast_slic", "skimage"] = "fast_slic"
    mode: Literal["stored", "online"] = "stored"

    def __post_init__(self) -> None:
        whole("superpixels.count", self.count, 1, _MAX_COUNT)
        number("superpixels.compactness", self.compactness, above=0, high=1e6)
        whole("superpixels.iterations", self.iterations, 1, 1000)
        one_of("superpixels.backend", self.backend, ("fast_slic", "skimage"))
        one_of("superpixels.mode", self.mode, ("stored", "online"))

    def check_backend(self) -> None:
        """Check that the backend is installed.

        Raises:
            ImportError: If it is missing. The message contains the command that installs it.
        """
        if self.backend == "fast_slic":
            _fast_slic_class()

    def identity(self) -> dict[str, Any]:
        """Describe everything that a map depends on, except the photo.

        Returns:
            Plain values that identify stored maps.

        Raises:
            ImportError: If the backend is missing.
        """
        self.check_backend()
        package = {"fast_slic": "fast-slic", "skimage": "scikit-image"}[self.backend]
        parameters = {k: v for k, v in asdict(self).items() if k != "mode"}
        parameters["compactness"] = float(self.compactness)  # so that 10 and 10.0 are the same
        return parameters | {"version": version(package)}

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Compute the superpixels of a photo.

        Args:
            image: Photo (H,W,3) uint8 RGB.

        Returns:
            Superpixel map (H,W) uint16 with ids 0..n-1 without gaps, n <= `count`. Each superpixel
            is 4-connected.

        Raises:
            ValueError: If the photo is not a uint8 RGB picture.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"superpixels need a uint8 RGB picture (H,W,3), not {image.dtype} {image.shape}"
            )
        # fast-slic crashes the process (SIGFPE) if asked for more superpixels than pixels.
        count = min(self.count, image.shape[0] * image.shape[1])
        if self.backend == "skimage":
            return self._skimage(image, count)
        # A used object would continue from the clusters of its last photo. With several threads,
        # OpenMP wastes time by spinning on a busy machine.
        slic = _fast_slic_class()(num_components=count, compactness=self.compactness, num_threads=1)
        return slic.iterate(np.ascontiguousarray(image), self.iterations).view(np.uint16)

    def _skimage(self, image: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
        """Compute at most `count` superpixels with scikit-image."""
        from skimage.segmentation import slic

        requested = count
        # scikit-image may return more superpixels than requested. Then request fewer.
        while True:
            labels = slic(
                image,
                n_segments=requested,
                compactness=self.compactness,
                max_num_iter=self.iterations,
                start_label=0,
            )
            num_labels = int(labels.max()) + 1
            if num_labels <= count:
                return labels.astype(np.uint16)
            requested = max(1, requested * count // (num_labels + 1))

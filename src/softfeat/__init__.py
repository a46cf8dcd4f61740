"""softfeat: semantic soft features, trained on superpixels, for the soft segmentation of photos."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softfeat.layers import Layers
    from softfeat.models.extractor import load_extractor
    from softfeat.segmenter import Segmenter

    __version__: str

__all__ = ["Layers", "Segmenter", "__version__", "load_extractor"]

# These names are imported when they are first used, because importing torch takes seconds.
_MODULES = {
    "Layers": "softfeat.layers",
    "Segmenter": "softfeat.segmenter",
    "load_extractor": "softfeat.models.extractor",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("softfeat")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Photos to try, from the installed scikit-image, which says that they are free of rights."""

from importlib.util import find_spec
from pathlib import Path

_FILES = {"Astronaut": "astronaut.png", "Cat": "chelsea.png", "Coffee": "coffee.png"}


def example_photos() -> dict[str, Path]:
    """The example photos that are installed, by name."""
    spec = find_spec("skimage")  # without an import
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "data"
    return {name: folder / file for name, file in _FILES.items() if (folder / file).is_file()}

"""Time and memory of whole photos, from the file to the written documents."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from rich.progress import track
from skimage import data

from benchmarks.measure import resident_peak, timed
from softfeat.segmenter import Segmenter


def large_photos(checkpoint: str, megapixels: Sequence[float], layers: int) -> dict[str, Any]:
    """Segments a photo at several sizes and writes all its files.

    Args:
        checkpoint: Checkpoint of the features.
        megapixels: Sizes of the photo, which is enlarged to 4:3.
        layers: Number of layers K.

    Returns:
        Result with one row per size.
    """
    segmenter = Segmenter(checkpoint, layers=layers)
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        segment = partial(_segment, segmenter, folder / "photo.jpg", folder / "layers")
        for size in track([0.1, *megapixels], "photos"):  # the first warms up
            width = round((size * 1e6 * 4 / 3) ** 0.5)
            height = round(width * 3 / 4)
            picture = Image.fromarray(data.coffee()).resize((width, height))
            picture.save(folder / "photo.jpg", quality=95)
            del picture
            (seconds, memory), total = timed(partial(resident_peak, segment))
            own = {stage: f"{seconds[stage]:.1f}" for stage in seconds if stage != "reading"}
            rows.append(
                {
                    "photo": f"{width}x{height}",
                    "megapixels": f"{width * height / 1e6:.1f}",
                    **own,
                    "s": f"{total:.1f}",
                    "MB": f"{memory / 1e6:.0f}",
                    "bytes per pixel": f"{memory / (width * height):.0f}",
                }
            )
    return {
        "title": "Whole photos: seconds and memory",
        "rows": rows[1:],
        "ratios": {},
        "settings": {
            "features": Path(checkpoint).stem,
            "layers": layers,
            "photo": "enlarged, 8 bits",
            "MB": "most memory in use over that before, with the network already loaded",
        },
    }


def _segment(segmenter: Segmenter, photo: Path, folder: Path) -> dict[str, float]:
    """Segments a photo and writes its files; returns the seconds per stage."""
    seconds: dict[str, float] = segmenter(photo).save(folder)["seconds"]
    return seconds

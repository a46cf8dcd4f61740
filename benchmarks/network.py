"""The network stage of `softfeat`: the shipped network and the paper's on one photo."""

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

from skimage import data

from benchmarks.measure import ratio, times_in_turn
from benchmarks.step import use_plain_layers
from softfeat.imaging.images import resize_image
from softfeat.models.extractor import BottleneckExtractor, load_extractor
from softfeat.models.photo_features import features_of


def network(
    checkpoint: str,
    width: int,
    features_sizes: Sequence[int],
    paper_sizes: Sequence[int],
    repeats: int,
) -> dict[str, Any]:
    """Times features of a photo with two networks, the shipped one also with PyTorch's layers.

    Args:
        checkpoint: Checkpoint of the shipped features.
        width: Width of the photo in pixels; its height is 3/4 of it.
        features_sizes: Long sides in pixels at which both networks see the photo.
        paper_sizes: Long sides at which the paper's network sees it in one more row, as it did when
            its weights were shipped.
        repeats: Measurements of each.

    Returns:
        Result with one row per network and sizes.
    """
    photo = resize_image(data.coffee(), (width * 3 // 4, width))
    shipped, plain = load_extractor(checkpoint), load_extractor(checkpoint)
    use_plain_layers(plain)
    paper = BottleneckExtractor().eval()
    ways = {
        ("shipped", tuple(features_sizes)): shipped,
        ("shipped, PyTorch's layers", tuple(features_sizes)): plain,
        ("paper", tuple(features_sizes)): paper,
        ("paper", tuple(paper_sizes)): paper,
    }
    sides = {
        f"{name}, {sizes}": partial(features_of, extractor, photo, sizes)
        for (name, sizes), extractor in ways.items()
    }
    seconds = times_in_turn(sides, repeats)
    own, *others = seconds.values()
    rows = [
        {
            "network": name,
            "long sides": ", ".join(map(str, sizes)),
            "parameters (millions)": f"{sum(p.numel() for p in extractor.parameters()) / 1e6:.2f}",
            "s": f"{median(times):.2f}",
        }
        for ((name, sizes), extractor), times in zip(ways.items(), seconds.values(), strict=True)
    ]
    return {
        "title": "Features of one photo",
        "rows": rows,
        "ratios": {
            f"seconds, shipped / {row['network']}, {row['long sides']}": ratio(own, other)
            for row, other in zip(rows[1:], others, strict=True)
        },
        "settings": {"photo": f"{width}x{width * 3 // 4}", "measurements": repeats},
    }

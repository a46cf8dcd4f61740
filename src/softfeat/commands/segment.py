"""Photos into soft layers: python -m src.segment input=PHOTO_OR_FOLDER_OR_GLOB output=FOLDER.

Each photo gets a folder with the files of `softfeat.segmenter.Layers.save`. With `select.point` or
`select.box` it also gets `selection.png` and `cutout.png`. Finished photos are skipped.
"""

import os
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from softfeat.batch import Result, report, segment_photos
from softfeat.commands.cli import readable_errors, refuse_empty_values
from softfeat.imaging.images import find_photos
from softfeat.segmenter import Segmenter


def _selection(select: DictConfig) -> dict[str, Any]:
    """The values of `select.point` and `select.box`.

    Raises:
        ValueError: A value is malformed, or both are set.
    """
    selection: dict[str, Any] = OmegaConf.to_container(select)  # type: ignore[assignment]
    if selection["point"] is not None and selection["box"] is not None:
        raise ValueError("select.point and select.box are both set: set one of them")
    for name, count in (("point", 2), ("box", 4)):
        value = selection[name]
        whole = isinstance(value, list) and all(type(v) is int for v in value)
        if value is not None and not (whole and len(value) == count):
            raise ValueError(f"select.{name}={value}: set {count} whole numbers, in pixels")
    return selection


def _with_tracebacks(results: Iterator[Result]) -> Iterator[Result]:
    """Raises the first failure if `HYDRA_FULL_ERROR` is set in the environment."""
    for result in results:
        if result.error is not None and os.environ.get("HYDRA_FULL_ERROR"):
            raise result.error
        yield result


@hydra.main(config_path="pkg://softfeat.conf", config_name="segment", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Segments unfinished photos and reports the result for each; exit status 1 if any failed."""
    refuse_empty_values(cfg)
    selection = _selection(cfg.select)
    inputs = cfg.input or str(resources.files("skimage") / "data" / "astronaut.png")
    photos = find_photos(list(inputs) if isinstance(inputs, ListConfig) else [str(inputs)])
    segmenter = Segmenter(
        str(cfg.checkpoint),
        layers=cfg.layers,
        size=cfg.size,
        features_sizes=cfg.features_sizes,
        seed=cfg.seed,
        backend=cfg.superpixels.backend,
    )
    results = segment_photos(segmenter, photos, Path(cfg.output), bits=cfg.bits, **selection)
    if report(_with_tracebacks(results), len(photos)):
        sys.exit(1)


if __name__ == "__main__":
    main()

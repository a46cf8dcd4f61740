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

from omegaconf import DictConfig, ListConfig, OmegaConf

from softfeat.batch import COLUMNS, Result, segment_photos
from softfeat.commands.cli import command
from softfeat.imaging.photo_files import Found, find_photos
from softfeat.reporting import report
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


def _photos(inputs: Any) -> Found:
    """The photos of `input`, which is null, a name, or a list of names."""
    if inputs is None:
        return Found([Path(str(resources.files("skimage") / "data" / "astronaut.png"))])
    names = list(inputs) if isinstance(inputs, ListConfig) else [inputs]
    if not names or isinstance(inputs, DictConfig):
        raise ValueError("input= has no names: set input=PHOTO_OR_FOLDER_OR_GLOB")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f'input={names}: put quotes around names: \'input=["1","2"]\'')
    return find_photos(names)


def _name(cfg: DictConfig, key: str) -> str:
    """The name of a folder or of weights."""
    if cfg[key] == "":
        raise ValueError(f"{key}= is empty: set {key}=NAME, or leave it out")
    return "null" if cfg[key] is None else str(cfg[key])  # a name like others


@command("segment", text=("input", "output", "checkpoint"))
def main(cfg: DictConfig) -> None:
    """Segments unfinished photos and reports the result for each.

    The exit status is 1 if a photo failed, and 130 or 143 after Ctrl-C or SIGTERM.
    """
    selection = _selection(cfg.select)
    output, checkpoint = Path(_name(cfg, "output")), _name(cfg, "checkpoint")
    found = _photos(cfg.input)
    segmenter = Segmenter(
        checkpoint,
        layers=cfg.layers,
        size=cfg.size,
        features_sizes=cfg.features_sizes,
        seed=cfg.seed,
        backend=cfg.superpixels.backend,
        max_pixels=cfg.max_pixels,
    )
    results = _with_tracebacks(
        segment_photos(segmenter, found.photos, output, bits=cfg.bits, masks=cfg.masks, **selection)
    )
    if report(results, len(found.photos), COLUMNS, "segmenting", others=found.others):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Photos into soft layers: python -m src.segment input=PHOTO_OR_FOLDER_OR_GLOB output=FOLDER.

Every photo gets a folder: `alpha_<k>.png`; `layer_<k>.png`, with the layer's own colours; all
layers as `layers.psd` and `layers.ora`; `overview.png`; `summary.json`, which is there only once
all the others are, and by which a photo that is done is known. With `select.point` or `select.box`
also `selection.png` and `cutout.png`.
"""

import itertools
import os
import sys
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from softfeat.commands.cli import readable_errors
from softfeat.imaging.images import file_identity, find_photos
from softfeat.matting import files
from softfeat.matting.photo import VERSION, Settings, segment_photo
from softfeat.models.checkpoints import checkpoint_file
from softfeat.models.extractor import load_extractor


def folder_of(photo: Path, output: Path) -> Path:
    """A photo's folder: its name without suffix, numbered where that holds anything else."""
    names = (photo.stem if n == 1 else f"{photo.stem}-{n}" for n in itertools.count(1))
    folders = (output / name for name in names)
    return next(f for f in folders if files.is_free(f) or files.is_of(f, photo))


@hydra.main(config_path="pkg://softfeat.conf", config_name="segment", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Segments what is not done, tells what became of each photo; exit status 1 if any failed."""
    settings = Settings(
        layers=cfg.layers,
        size=cfg.size,
        seed=cfg.seed,
        bits=cfg.bits,
        backend=cfg.superpixels.backend,
        features_sizes=list(cfg.features_sizes),
        **OmegaConf.to_container(cfg.select),  # type: ignore[arg-type]
    )
    default = resources.files("skimage") / "data" / "astronaut.png"
    given = cfg.input or str(default)
    photos = find_photos(list(given) if isinstance(given, ListConfig) else [str(given)])
    checkpoint = checkpoint_file(cfg.checkpoint)
    extractor = load_extractor(checkpoint)
    output = Path(cfg.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output={output} cannot be a folder ({error.strerror}): set output=FOLDER"
        ) from error

    table = Table(*(Column(name, overflow="fold") for name in ("photo", "layers", "seconds", "")))
    failed = 0
    for photo in track(photos, "segmenting"):
        folder = folder_of(photo, output)
        made_of = {
            "input": file_identity(photo),
            "checkpoint": file_identity(checkpoint),
            "settings": asdict(settings),
            "version": VERSION,
        }
        if files.is_done(folder, made_of):
            layers = str(len(files.read_summary(folder)["coverage"]))
            table.add_row(escape(photo.name), layers, "done before", escape(str(folder)))
            continue
        try:
            with files.replacing(folder) as unfinished:
                summary = segment_photo(photo, unfinished, extractor, settings)
                files.write_summary(unfinished, {**summary, **made_of})
        except Exception as error:  # of one photo: the others go on
            if os.environ.get("HYDRA_FULL_ERROR"):
                raise
            failed += 1
            reason = str(error) if isinstance(error, ValueError | OSError) else repr(error)
            table.add_row(escape(photo.name), "", "failed", escape(reason))
        else:
            seconds = f"{sum(summary['seconds'].values()):.1f}"
            row = (photo.name, str(len(summary["coverage"])), seconds, str(folder))
            table.add_row(*map(escape, row))
    Console().print(table)
    if failed:
        print(f"{failed} of {len(photos)} photos failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Files that the page offers. Their names never depend on those of the user."""

import zipfile
from collections.abc import Callable
from pathlib import Path

from softfeat.app.pictures import behind
from softfeat.app.sessions import Session
from softfeat.imaging import documents
from softfeat.selection import part_of


def write_cutout(session: Session) -> Path:
    """Writes the selection as a transparent PNG."""
    path = session.file("cutout.png")
    session.work.cutout().save(path)
    return path


def write_over_background(session: Session) -> Path:
    """Writes the selection over the chosen background, or transparent over the checkerboard."""
    content = behind(session.background)
    path = session.file("cutout_over_background.png")
    part = session.work.cutout()
    documents.save_png(path, part.photo if content is None else part.over(content))
    return path


def write_psd(session: Session) -> Path:
    """Writes all layers as a Photoshop document."""
    layers = session.work.layers()
    stacked = layers.stacked(session.work.names())
    return documents.write_photoshop(session.file("layers"), layers.original, stacked)


def write_ora(session: Session) -> Path:
    """Writes all layers as OpenRaster."""
    layers = session.work.layers()
    path = session.file("layers.ora")
    documents.write_ora(path, layers.original, layers.stacked(session.work.names()))
    return path


def write_zip(session: Session) -> Path:
    """Writes each layer as a PNG in its own colours, `layer_1.png` the lowest, and zips them."""
    layers = session.work.layers()
    path = session.file("layers.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not get smaller
        colours = (layer.colours for layer in layers.stacked(session.work.names()))
        for number, (own, alpha) in enumerate(zip(colours, layers.alphas, strict=True), 1):
            with archive.open(f"layer_{number}.png", "w", force_zip64=True) as file:
                documents.write_png(file, part_of(layers.original, own, alpha))  # type: ignore[arg-type]
    return path


WRITERS: dict[str, Callable[[Session], Path]] = {
    "cutout": write_cutout,
    "background": write_over_background,
    "psd": write_psd,
    "ora": write_ora,
    "zip": write_zip,
}

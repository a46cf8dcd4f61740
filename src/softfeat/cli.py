"""The command `softfeat`: photos to soft layers, for people with photos.

Nothing slow is imported before a command runs, so that help is there at once.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from softfeat.imaging.formats import PhotoWarning

if TYPE_CHECKING:
    from softfeat.segmenter import Segmenter

Command = TypeVar("Command", bound=Callable[..., Any])

_STANDARD = "-"
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_BAD_INPUT = (ValueError, OSError, ImportError)  # errors with a message for people


MOST_LAYERS = 40  # as in `softfeat.matting`, whose import takes seconds


class _Layers(click.ParamType):
    """A number of layers, or "auto"."""

    name = "number|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto.", param, ctx)
        if not 1 <= number <= MOST_LAYERS:
            self.fail(f"{number} is not in the range 1 to {MOST_LAYERS}.", param, ctx)
        return number


class _Pixels(click.ParamType):
    """Whole numbers with commas between them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        try:
            if len(parts) != len(self.name.split(",")):
                raise ValueError
            return tuple(int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not {self.name} in whole pixels.", param, ctx)


_SEGMENTER_OPTIONS = (
    click.option(
        "-k",
        "--layers",
        type=_Layers(),
        default=5,
        show_default=True,
        help="Number of layers, 1 to 40, or auto.",
    ),
    click.option(
        "--size",
        type=click.IntRange(min=32),
        default=640,
        show_default=True,
        help="Pixels of the long side at which layers are computed.",
    ),
    click.option(
        "--weights",
        default="general",
        show_default=True,
        help="Name of shipped weights (general, road), a file of weights, or a run directory.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Random seed; the same seed gives the same layers.",
    ),
    click.option(
        "--device", default="cpu", show_default=True, help="Device that computes: cpu or cuda."
    ),
    click.option(
        "--backend",
        type=click.Choice(["fast_slic", "skimage"]),
        default="fast_slic",
        show_default=True,
        help="Library that computes the superpixels.",
    ),
    click.option(
        "--max-megapixels",
        type=click.FloatRange(min=0, min_open=True),
        default=89.478485,  # as in `softfeat.imaging.photo`
        show_default="89",
        help="Largest photo that is read; larger files could fill the memory.",
    ),
)


def _segmenter_options(command: Command) -> Command:
    for option in reversed(_SEGMENTER_OPTIONS):
        command = option(command)
    return command


class _UsageError(click.ClickException):
    """A wrong option, in one line, with the exit code of wrong usage."""

    exit_code = 2


def _segmenter(weights: str, max_megapixels: float, **options: Any) -> "Segmenter":
    from softfeat.segmenter import Segmenter

    try:
        return Segmenter(weights, max_pixels=math.ceil(max_megapixels * 1e6), **options)
    except _BAD_INPUT as error:
        raise _UsageError(str(error)) from error


def _standard_input() -> BytesIO:
    stream = BytesIO(sys.stdin.buffer.read())
    stream.name = "standard input"
    return stream


def _find_photos(arguments: Sequence[str]) -> list[Path | BytesIO]:
    """The photos of the arguments: files, the pictures in folders, standard input.

    Files that do not exist are among them, so that they are reported and the others go on.
    """
    from softfeat.imaging.images import pictures

    photos: list[Path | BytesIO] = []
    for argument in arguments:
        path = Path(argument)
        if argument == _STANDARD:
            photos.append(_standard_input())
        elif os.path.isdir(argument):  # noqa: PTH112, which fails for names that are too long
            # A folder without photos is reported like a photo that cannot be read.
            photos += pictures(path) or [path]
        else:
            photos.append(path)
    return photos


def _fail(name: object, error: Exception) -> NoReturn:
    """Ends with exit code 1 and one line that names the file."""
    line = f"{name}: " + str(error).removeprefix(f"{name}: ")
    raise click.ClickException(click.format_filename(" ".join(line.splitlines()))) from error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints in one line what the reader of a photo has to say, and other warnings as usual."""
    if issubclass(category, PhotoWarning):
        text = click.format_filename(f"warning: {message}")
        text = "".join(c if c.isprintable() else "?" for c in text) + "\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    click.echo(text, file or sys.stderr, nl=False)


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="softfeat", prog_name="softfeat")
def main() -> None:
    """Divide photos into soft layers: alphas that add up to 1 at every pixel.

    \b
    Examples:
      softfeat segment photo.jpg
      softfeat cutout photo.jpg --include 420,310
    """  # noqa: D301
    click.get_current_context().with_resource(warnings.catch_warnings())
    warnings.simplefilter("always", PhotoWarning)
    warnings.showwarning = _show_warning


@main.command(context_settings=_CONTEXT)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="layers",
    show_default=True,
    help="Folder that gets a folder per photo.",
)
@_segmenter_options
@click.option(
    "--bits",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Bits of the alphas' files.",
)
@click.option("--overwrite", is_flag=True, help="Segment finished photos again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per photo.")
def segment(
    photos: tuple[str, ...],
    output: Path,
    bits: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Divide photos into soft layers and write them as PNG, PSD and OpenRaster.

    PHOTO is a file, a folder of photos, or - for standard input. Each photo gets a folder with its
    alphas, its layers in their own colours, an overview and a summary. Finished photos are skipped.

    \b
    Examples:
      softfeat segment photo.jpg
      softfeat segment photos/ -o layers/ -k auto --bits 16
      softfeat segment -o layers/ -- *.jpg
      curl -s https://example.org/photo.jpg | softfeat segment - --json

    \b
    Exit codes:
      0  all photos are finished
      1  a photo failed
      2  wrong usage
    """  # noqa: D301
    segmenter = _segmenter(**options)
    found = _find_photos(photos)
    from softfeat.batch import report, segment_photos

    try:
        results = segment_photos(segmenter, found, output, bits=int(bits), overwrite=overwrite)
    except ValueError as error:
        raise _UsageError(str(error)) from error
    if report(results, len(found), as_json):
        sys.exit(1)


@main.command(context_settings=_CONTEXT)
@click.argument("photo", metavar="PHOTO")
@click.option(
    "--include",
    multiple=True,
    type=_Pixels("X,Y"),
    help="A pixel of what to cut out; repeat it for more parts.",
)
@click.option(
    "--box",
    type=_Pixels("L,T,R,B"),
    help="A box around what to cut out: left, top, right, bottom.",
)
@click.option(
    "-o",
    "--output",
    default="cutout.png",
    show_default=True,
    help="PNG file to write, or - for standard output.",
)
@_segmenter_options
def cutout(
    photo: str,
    include: tuple[tuple[int, int], ...],
    box: tuple[int, int, int, int] | None,
    output: str,
    **options: Any,
) -> None:
    """Cut a part out of a photo, by pixels or a box, as a transparent PNG.

    PHOTO is a file, or - for standard input.

    \b
    Examples:
      softfeat cutout photo.jpg --include 420,310
      softfeat cutout photo.jpg --include 420,310 --include 300,80 -o cat.png
      softfeat cutout photo.jpg --box 100,50,600,400 -o - > cat.png

    \b
    Exit codes:
      0  the part is cut out
      1  the photo failed
      2  wrong usage
    """  # noqa: D301
    if bool(include) == (box is not None):
        raise click.UsageError("Choose what to cut out: --include X,Y or --box L,T,R,B.")
    target = Path(output)
    if output != _STANDARD and target.suffix.lower() != ".png":
        raise click.UsageError(f"-o {output}: the cut-out is a PNG file; choose a name in .png.")
    if target.exists() and Path(photo).exists() and target.samefile(photo):
        raise click.UsageError(f"-o {output} is the photo; choose another name.")
    segmenter = _segmenter(**options)
    from softfeat.segmenter import check_cutout

    source = _standard_input() if photo == _STANDARD else Path(photo)
    try:
        original = segmenter.read(source)
        check_cutout(original, include, box)  # before the work
        picture = segmenter(original).cutout(include, box).image
    except _BAD_INPUT as error:
        _fail(source.name if isinstance(source, BytesIO) else source, error)
    try:
        if output == _STANDARD:
            picture.save(sys.stdout.buffer, "PNG")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target)
            click.echo(f"wrote {click.format_filename(target)}", err=True)
    except OSError as error:
        _fail(output, error)

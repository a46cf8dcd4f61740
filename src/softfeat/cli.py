"""The command `softfeat`: photos to soft layers, for people with photos.

Nothing slow is imported before a command runs, so that help is there at once.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from softfeat.atomic import check_writable, replaced
from softfeat.imaging.formats import PhotoWarning
from softfeat.interrupt import Interrupted, interruptible
from softfeat.names import printable
from softfeat.pipes import end_of_output
from softfeat.storage import LocalFolder, RemoteFolder, is_url
from softfeat.threads import limit_threads

if TYPE_CHECKING:
    from softfeat.processes import Map
    from softfeat.reporting import Source, StatusTable
    from softfeat.segmenter import Segmenter

Command = TypeVar("Command", bound=Callable[..., Any])

_STANDARD = "-"
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_BAD_INPUT = (ValueError, OSError, ImportError)  # errors with a message for people


MOST_LAYERS = 40  # as in `softfeat.matting`, whose import takes seconds


class _Text(click.ParamType):
    """A text that is not empty, unlike an unset variable of a shell."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "":
            self.fail("it is empty: is a variable of the shell not set?", param, ctx)
        return value


class _FolderOrUrl(click.Path):
    """A path that may become a folder, or a URL. An empty text is not the current folder."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, RemoteFolder) or (isinstance(value, str) and is_url(value)):
            return value if isinstance(value, RemoteFolder) else RemoteFolder(value)
        return super().convert(_Text().convert(value, param, ctx), param, ctx)


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


_LAYERS_OPTIONS = (
    click.option(
        "-k",
        "--layers",
        type=_Layers(),
        default=5,
        show_default=True,
        help="Number of layers, 1 to 40, or auto.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Random seed; the same seed gives the same layers.",
    ),
)
_SEGMENTER_OPTIONS = (
    click.option(
        "--size",
        type=click.IntRange(min=32),
        default=640,
        show_default=True,
        help="Pixels of the long side at which the photo is analysed.",
    ),
    click.option(
        "--weights",
        type=_Text(),
        default="general",
        show_default=True,
        help="Name of shipped weights (general, road), a file of weights, or a run directory.",
    ),
    click.option(
        "--device",
        type=_Text(),
        default="cpu",
        show_default=True,
        help="Device that computes: cpu or cuda.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        show_default="one per core",
        help="Threads that compute.",
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

_PLACE_OPTIONS = (
    click.option(
        "-j",
        "--processes",
        type=click.IntRange(min=1),
        show_default="1; with Ray, one per core of the cluster",
        help="Processes that work on photos, each with one thread.",
    ),
    click.option(
        "--memory",
        type=click.FloatRange(min=0, min_open=True),
        show_default="no limit",
        help="Gigabytes that such a process may take. A photo that needs more fails.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where the processes run: on this machine, or on the machines of a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        type=_Text(),
        help="Address of the cluster, as head:6379. Without it, this machine becomes one.",
    ),
)


def _options(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """A decorator that adds several options to a command."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_segmenter_options = _options(_SEGMENTER_OPTIONS)
_layers_options = _options(_LAYERS_OPTIONS)
_place_options = _options(_PLACE_OPTIONS)
_photos_argument = click.argument(
    "photos", metavar="PHOTO...", type=_Text(), nargs=-1, required=True
)
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per photo."
)


class _UsageError(click.ClickException):
    """A wrong option, in one line, with the exit code of wrong usage."""

    exit_code = 2


def _segmenter(
    weights: str, max_megapixels: float, threads: int | None, **options: Any
) -> "Segmenter":
    limit_threads(threads)  # before the libraries that read it are imported
    from softfeat.segmenter import Segmenter

    try:
        return Segmenter(weights, max_pixels=math.ceil(max_megapixels * 1e6), **options)
    except _BAD_INPUT as error:
        raise _UsageError(str(error)) from error


def _standard_input() -> BytesIO:
    stream = BytesIO(sys.stdin.buffer.read())
    stream.name = "standard input"
    return stream


def _find_photos(arguments: Sequence[str]) -> tuple[list["Source"], list[Path | str]]:
    """The photos of the arguments, and the files in folders that are no photos.

    Files that do not exist are among the photos, so that they are reported and the others go on.
    """
    from softfeat.imaging.photo_files import Found, find_photos_at, is_folder, photos_in

    found = Found()
    streams: list[tuple[int, BytesIO]] = []
    remote: dict[tuple[str | int, ...], Source] = {}  # the same file may be named twice
    others: list[Path | str] = []
    for argument in arguments:
        path = Path(argument)
        if is_url(argument):
            try:
                photos_there, others_there = find_photos_at(argument)
            except (ValueError, ImportError) as error:
                raise _UsageError(str(error)) from error
            remote |= {tuple(photo.identity): photo for photo in photos_there}
            others += others_there
        elif argument == _STANDARD:
            streams = streams or [(len(found.photos), _standard_input())]
        elif is_folder(path):
            new = photos_in(path)
            # A folder without photos is reported like a photo that cannot be read.
            found.add(Found(new.photos or [path], new.others))
        else:
            found.add(Found([path]))
    photos: list[Source] = list(found.photos)
    for place, stream in streams:
        photos.insert(place, stream)
    return [*photos, *remote.values()], [*found.others, *others]


def _map_of(
    engine: str, ray_address: str | None, processes: int | None, memory: float | None
) -> "Map":
    """Where the work on photos is done."""
    from softfeat.memory import GIGABYTE
    from softfeat.processes import map_here, map_in_processes

    if memory is not None and find_spec("resource") is None:
        raise _UsageError("--memory does not work on Windows: leave it out")
    size = None if memory is None else int(memory * GIGABYTE)
    if engine == "local":
        if ray_address is not None:
            raise _UsageError("--ray-address is for --engine ray")
        if processes is None and size is None:
            return map_here
        return partial(map_in_processes, count=processes or 1, memory=size)
    from softfeat.actors import connect, map_in_actors

    try:
        cores = connect(ray_address)
    except (ValueError, ImportError) as error:
        raise _UsageError(str(error)) from error
    return partial(map_in_actors, count=processes or cores, memory=size)


def _statuses(engine: str, output: Path | RemoteFolder) -> "StatusTable | None":
    """The table of a run on a cluster; None for one on this machine."""
    if engine == "local":
        return None
    from softfeat.reporting import StatusTable

    return StatusTable(LocalFolder(output) if isinstance(output, Path) else output)


@contextmanager
def _named(name: object) -> Iterator[None]:
    """Turns an error for people into exit code 1 and one line that names the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except _BAD_INPUT as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        line = f"{name}: " + reason.removeprefix(f"{name}: ")
        raise click.ClickException(" ".join(line.splitlines())) from error


class _Group(click.Group):
    """Ends commands in order: one line for an error, with names made printable, and for Ctrl-C."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Runs a command and exits."""
        if not extra.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **extra)
        if hasattr(sys.stdout, "reconfigure"):  # names that the terminal's encoding lacks
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with interruptible():
                code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
            sys.exit(code or 0)
        except Interrupted as error:
            click.echo(error, err=True)
            sys.exit(error.status)
        except BrokenPipeError:
            end_of_output()
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]
            error.show()
            sys.exit(error.exit_code)


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
        text = printable(f"warning: {message}") + "\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    click.echo(text, file or sys.stderr, nl=False)


@click.group(cls=_Group, context_settings=_CONTEXT)
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
@_photos_argument
@click.option(
    "-o",
    "--output",
    type=_FolderOrUrl(),
    default="layers",
    show_default=True,
    help="Folder or URL that gets a folder per photo.",
)
@_layers_options
@_segmenter_options
@click.option(
    "--bits",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Bits of the alphas' files.",
)
@click.option(
    "--masks/--baked",
    default=True,
    show_default=True,
    help="Layers of the PSD with masks to edit, or with baked transparency.",
)
@click.option("--overwrite", is_flag=True, help="Segment finished photos again.")
@_place_options
@_json_option
def segment(
    photos: tuple[str, ...],
    output: Path | RemoteFolder,
    bits: str,
    masks: bool,
    overwrite: bool,
    as_json: bool,
    engine: str,
    ray_address: str | None,
    processes: int | None,
    memory: float | None,
    **options: Any,
) -> None:
    """Divide photos into soft layers and write them as PNG, PSD and OpenRaster.

    PHOTO is a file, a folder of photos, the URL of either, or - for standard input. Folders are
    searched with their subfolders. Each photo gets a folder with its alphas, its layers in their
    own colours, an overview and a summary. Finished photos are skipped, so the same command
    continues after a stop.

    \b
    Examples:
      softfeat segment photo.jpg
      softfeat segment photos/ -o layers/ -k auto --bits 16
      softfeat segment photos/ -j 4
      softfeat segment s3://bucket/photos -o s3://bucket/layers --engine ray
      softfeat segment -o layers/ -- *.jpg
      curl -s https://example.org/photo.jpg | softfeat segment - --json

    \b
    Exit codes:
      0    all photos are finished
      1    a photo failed
      2    wrong usage
      130  stopped by Ctrl-C (143: by SIGTERM)
    """  # noqa: D301
    if engine == "ray" or processes is not None:
        options["threads"] = options["threads"] or 1
    segmenter = _segmenter(**options)
    found, others = _find_photos(photos)
    map_photos = _map_of(engine, ray_address, processes, memory)
    from softfeat.batch import COLUMNS, segment_photos
    from softfeat.reporting import report

    try:
        results = segment_photos(
            segmenter,
            found,
            output,
            bits=int(bits),
            masks=masks,
            overwrite=overwrite,
            map_photos=map_photos,
        )
    except (ValueError, ImportError) as error:
        raise _UsageError(str(error)) from error
    advice = "the same command continues"
    if overwrite:
        advice += " if you leave out --overwrite"
    statuses = _statuses(engine, output)
    with _named(output):
        failed = report(
            results, len(found), COLUMNS, "segmenting", as_json, others, advice, statuses
        )
    if failed:
        sys.exit(1)


@main.command(context_settings=_CONTEXT)
@_photos_argument
@click.option(
    "-o",
    "--output",
    type=_FolderOrUrl(),
    default="features",
    show_default=True,
    help="Folder or URL of the tables, which may have rows of earlier runs.",
)
@click.option(
    "-s",
    "--superpixels",
    type=click.IntRange(1, 60_000),
    default=500,
    show_default=True,
    help="Number of superpixels of a photo.",
)
@_segmenter_options
@_place_options
@_json_option
def extract(
    photos: tuple[str, ...],
    output: Path | RemoteFolder,
    superpixels: int,
    as_json: bool,
    engine: str,
    ray_address: str | None,
    processes: int | None,
    memory: float | None,
    **options: Any,
) -> None:
    """Write the features of photos to tables, for databases and other programs.

    PHOTO is a file, a folder of photos, the URL of either, or - for standard input. The
    output gets two tables as Parquet files: photos/, with a row for each photo, and superpixels/,
    with a row for each superpixel and its mean features. Photos that are in the tables already are
    skipped. Needs pip install "softfeat[tables]".

    \b
    Examples:
      softfeat extract photos/ -o features/
      softfeat extract photos/ -o features/ -s 200 -j 4

    \b
    Exit codes:
      0    all photos are in the tables
      1    a photo failed
      2    wrong usage
      130  stopped by Ctrl-C (143: by SIGTERM)
    """  # noqa: D301
    if engine == "ray" or processes is not None:
        options["threads"] = options["threads"] or 1
    segmenter = _segmenter(**options)
    found, others = _find_photos(photos)
    map_photos = _map_of(engine, ray_address, processes, memory)
    from softfeat.extraction import COLUMNS, extract_photos
    from softfeat.reporting import report

    try:
        results = extract_photos(
            segmenter, found, output, superpixels=superpixels, map_photos=map_photos
        )
    except (ValueError, ImportError) as error:
        raise _UsageError(str(error)) from error
    statuses = _statuses(engine, output)
    with _named(output):
        failed = report(
            results, len(found), COLUMNS, "extracting", as_json, others, statuses=statuses
        )
    if failed:
        sys.exit(1)


@main.command(context_settings=_CONTEXT)
@click.argument("photo", metavar="PHOTO", type=_Text())
@click.option(
    "--include",
    multiple=True,
    type=_Pixels("X,Y"),
    help="A pixel of the thing; repeat it for more.",
)
@click.option(
    "--exclude",
    multiple=True,
    type=_Pixels("X,Y"),
    help="A pixel that is not of the thing; repeat it for more.",
)
@click.option(
    "--box",
    type=_Pixels("L,T,R,B"),
    help="A box around the thing: left, top, right, bottom.",
)
@click.option(
    "-o",
    "--output",
    type=_Text(),
    default="cutout.png",
    show_default=True,
    help="PNG file to write, or - for standard output.",
)
@click.option("--matte", type=_Text(), help="PNG file for the matte, in grey.")
@click.option(
    "--background",
    type=_Text(),
    metavar="COLOUR|PHOTO",
    help="What to put behind the thing: white, #rrggbb, or a photo. [default: transparent]",
)
@click.option(
    "--grow",
    type=click.FloatRange(-1000, 1000),
    default=0,
    metavar="PIXELS",
    help="Move the border outwards, or inwards below 0.",
)
@click.option(
    "--feather",
    type=click.FloatRange(0, 1000),
    default=0,
    metavar="PIXELS",
    help="Blur the border.",
)
@click.option(
    "--decontaminate/--keep-colours",
    default=True,
    show_default=True,
    help="Free the border from colours of the surroundings, or keep the photo's.",
)
@_segmenter_options
def cutout(
    photo: str,
    include: tuple[tuple[int, int], ...],
    exclude: tuple[tuple[int, int], ...],
    box: tuple[int, int, int, int] | None,
    output: str,
    matte: str | None,
    background: str | None,
    grow: float,
    feather: float,
    decontaminate: bool,
    **options: Any,
) -> None:
    """Cut a thing out of a photo, softly, as a transparent PNG.

    PHOTO is a file, or - for standard input. Without --include, --exclude and --box it is the
    subject of the photo.

    \b
    Examples:
      softfeat cutout photo.jpg
      softfeat cutout photo.jpg --include 420,310 -o cat.png
      softfeat cutout photo.jpg --include 420,310 --exclude 300,80 --background white
      softfeat cutout photo.jpg --box 100,50,600,400 -o - > cat.png

    \b
    Exit codes:
      0  the thing is cut out
      1  the photo failed
      2  wrong usage
    """  # noqa: D301
    outputs = {option: name for option, name in (("-o", output), ("--matte", matte)) if name}
    for option, written in outputs.items():
        if written == _STANDARD and option == "-o":
            continue
        if Path(written).suffix.lower() != ".png":
            raise click.UsageError(f"{option} {written}: it is a PNG file; choose a name in .png.")
        for read in (photo, background or photo):
            if os.path.exists(written) and os.path.exists(read) and Path(written).samefile(read):  # noqa: PTH110
                raise click.UsageError(f"{option} {written} is the photo; choose another name.")
    if matte and os.path.abspath(matte) == os.path.abspath(output):  # noqa: PTH100
        raise click.UsageError("-o and --matte are the same file; choose two names.")
    segmenter = _segmenter(**options)
    from softfeat.imaging.documents import save_png, write_alpha
    from softfeat.selection import colour_of

    source = _standard_input() if photo == _STANDARD else Path(photo)
    name = source.name if isinstance(source, BytesIO) else source
    with _named(name):
        original = segmenter.read(source)
        segmenter.check(original, include, exclude, box)  # before the work
    behind: Any = background
    if background is not None and colour_of(background) is None:
        with _named(background):
            behind = segmenter.read(Path(background))
    for written in outputs.values():
        if written != _STANDARD:
            with _named(written):
                Path(written).parent.mkdir(parents=True, exist_ok=True)
                check_writable(Path(written))
    with _named(name):
        part = segmenter.open(original).cutout(
            include, exclude, box, grow=grow, feather=feather, decontaminate=decontaminate
        )
        picture = part.photo if behind is None else part.over(behind)
    if matte is not None:
        with _named(matte), replaced(Path(matte)) as partial:
            write_alpha(partial, part.matte, 8 * original.pixels.itemsize)
    with _named(output):
        if output == _STANDARD:
            save_png(sys.stdout.buffer, picture)
            return
        with replaced(Path(output)) as partial:
            save_png(partial, picture)
    click.echo(f"wrote {printable(output)}", err=True)


@main.command(context_settings=_CONTEXT)
@click.option(
    "--host", type=_Text(), default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port; 0 for any that is free.",
)
@click.option(
    "--share/--no-share",
    default=False,
    show_default=True,
    help="Open a public link, through a server of Gradio.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=24,
    show_default=True,
    help="Largest photo that is read.",
)
@_options(_SEGMENTER_OPTIONS[:-1])
def app(
    host: str, port: int, share: bool, max_megapixels: float, threads: int | None, **options: Any
) -> None:
    """Open a page for a web browser, to cut things out and to edit layers.

    The page is for this computer only, unless you choose another --host or --share. Photos stay in
    the memory of this computer. They are forgotten when the page is closed, or after an hour.

    \b
    Examples:
      softfeat app
      softfeat app --port 8080 --size 1024

    \b
    Exit codes:
      2    wrong usage
      130  ended by Ctrl-C (143: by SIGTERM)
    """  # noqa: D301
    limit_threads(threads)  # before the libraries that read it are imported

    def load() -> "Segmenter":
        from softfeat.segmenter import Segmenter

        return Segmenter(max_pixels=math.ceil(max_megapixels * 1e6), **options)

    from softfeat.app.server import Server

    try:
        server = Server(load, host, port, share, max_megapixels)
    except ImportError as error:
        raise _UsageError(str(error)) from error
    except OSError as error:
        raise _UsageError(f"--host {host} --port {port}: {error}; choose others") from error
    try:
        with server:
            click.echo(f"the page is at {server.url} (Ctrl-C ends it)", err=True)
            if server.public_url:
                click.echo(f"for everyone at {server.public_url}", err=True)
            server.wait()
    except _BAD_INPUT as error:
        raise _UsageError(str(error)) from error
    except Interrupted as error:
        click.echo(error, err=True)
        # A thread that still computes would make the usual end of Python an abort.
        os._exit(error.status)

"""Photos per second that superpixels are made for, compared with the ideal and with other SLICs."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Function, cells, ratio, times_in_turn
from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Record
from softfeat.data.records import read_record
from softfeat.data.store import SampleStore
from softfeat.imaging.images import read_image, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.threads import usable_cores

Segment = Callable[[NDArray[np.uint8]], NDArray[Any]]

_ONE_THREAD, _LABELS = "one thread", ", labels checked"


def opencv_slic(superpixels: Superpixels) -> Segment:
    """Makes OpenCV's SLIC with the same parameters: one thread, Lab conversion included.

    Raises:
        ImportError: OpenCV is not installed or lacks `ximgproc`.
    """
    cv2: Any = import_module("cv2")
    if not hasattr(cv2, "ximgproc"):
        raise ImportError("this OpenCV has no ximgproc: install opencv-contrib-python")
    cv2.setNumThreads(1)

    def segment(image: NDArray[np.uint8]) -> NDArray[np.int32]:
        side = round((image.shape[0] * image.shape[1] / superpixels.count) ** 0.5)
        slic = cv2.ximgproc.createSuperpixelSLIC(
            cv2.cvtColor(image, cv2.COLOR_RGB2Lab),
            cv2.ximgproc.SLIC,
            side,
            superpixels.compactness,
        )
        slic.iterate(superpixels.iterations)
        slic.enforceLabelConnectivity()
        return slic.getLabels()

    return segment


def precompute(
    data: SegmentationData, photos: int, photos_slow: int, rounds: int
) -> dict[str, Any]:
    """Measures how fast superpixel maps of the training photos are made.

    One thread decodes, resizes and segments; the ideal of n workers is n times its rate. A store
    also reads and checks the labels and writes the maps, in 0, 1, 2, 4, ... workers up to the
    number of cores.

    Args:
        data: Photos, their size, and the parameters of the superpixels.
        photos: Number of photos in a round; files are repeated.
        photos_slow: Number of photos in a round of ways that are slower than fast-slic.
        rounds: Number of counted rounds.

    Returns:
        Result with one row per way.
    """
    data.layout.prepare()
    files = data.layout.records("train")
    cores = usable_cores()
    workers = [0, *(2**i for i in range(cores.bit_length()))]
    with TemporaryDirectory() as folder:
        records, fewer = (list(islice(cycle(files), n)) for n in (photos, photos_slow))
        ways, missing = _ways(data, records, fewer, workers, folder)
        clear = partial(shutil.rmtree, folder, ignore_errors=True)
        seconds = times_in_turn(ways, rounds, before=clear)
    rates = {
        name: [(photos if name.startswith("fast-slic") else photos_slow) / s for s in values]
        for name, values in seconds.items()
    }
    return {
        "title": "Superpixel maps",
        "rows": [{"way": name, **cells(rate, "images/s", 1)} for name, rate in rates.items()],
        "ratios": _ratios(rates, workers),
        "settings": {
            "data": files[0].image.parents[2].name,
            "image": size_text(data.image_size),
            "superpixels": data.superpixels.count,
            "iterations": data.superpixels.iterations,
            "photos a round": f"{photos} (others: {photos_slow}), of {len(files)} files",
            "rounds": rounds,
            "cores": cores,
            _ONE_THREAD: "decodes, resizes, segments",
            "ideal": "workers times the rate of one thread",
            **missing,
        },
    }


def _ways(
    data: SegmentationData,
    records: list[Record],
    fewer: list[Record],
    workers: list[int],
    folder: str,
) -> tuple[dict[str, Function], dict[str, str]]:
    """Makes the timed functions, and a note for the settings if OpenCV is missing.

    Args:
        data: Size of the photos and parameters of the superpixels.
        records: Photos of a round.
        fewer: Photos of a round of slower ways.
        workers: Numbers of workers.
        folder: Folder of the store.
    """
    fast = replace(data.superpixels, backend="fast_slic")
    skimage = replace(data.superpixels, backend="skimage")

    def one_thread(segment: Segment, records: list[Record], labels: bool = False) -> Function:
        def run() -> None:
            for record in records:
                image = read_record(record)[0] if labels else read_image(record.image)
                segment(resize_image(image, data.image_size))

        return run

    def stored(superpixels: Superpixels, records: list[Record], workers: int) -> Function:
        store = SampleStore(folder, records, data.image_size, superpixels)
        return lambda: store.prepare(workers, f"{superpixels.backend}, {workers} workers")

    ways = {
        f"fast-slic, {_ONE_THREAD}": one_thread(fast, records),
        f"fast-slic, {_ONE_THREAD}{_LABELS}": one_thread(fast, records, labels=True),
        **{f"fast-slic, {_store(n)}": stored(fast, records, n) for n in workers},
        f"scikit-image, {_ONE_THREAD}": one_thread(skimage, fewer),
        f"scikit-image, {_store(workers[-1])}": stored(skimage, fewer, workers[-1]),
    }
    try:
        ways[f"OpenCV, {_ONE_THREAD}"] = one_thread(opencv_slic(fast), fewer)
    except ImportError as error:
        return ways, {"OpenCV": f"left out ({error})"}
    return ways, {}


def _store(workers: int) -> str:
    return f"store, {workers} workers"


def _ratios(rates: Mapping[str, list[float]], workers: list[int]) -> dict[str, dict[str, float]]:
    """Compares the store with the ideal, and fast-slic with the other libraries."""
    ratios = {
        f"{n} workers / ideal{labels}, percent": ratio(
            rates[f"fast-slic, {_store(n)}"],
            [max(n, 1) / 100 * rate for rate in rates[f"fast-slic, {_ONE_THREAD}{labels}"]],
        )
        for labels in ("", _LABELS)
        for n in workers
    }
    for name, rate in rates.items():
        library, _, way = name.partition(", ")
        if library != "fast-slic":
            ratios[f"fast-slic / {library}, {way}"] = ratio(rates[f"fast-slic, {way}"], rate)
    return ratios

"""Superpixels per second: through the store against what the cores could do, and other SLICs."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from itertools import cycle, islice
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Function, ratio, times_in_turn
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Record
from softfeat.data.parallel import usable_cores
from softfeat.data.records import read_record
from softfeat.data.store import SampleStore
from softfeat.imaging.images import read_image, resize_image
from softfeat.imaging.slic import Superpixels

Segment = Callable[[NDArray[np.uint8]], NDArray[Any]]

_LABELS = ", labels checked"


def opencv_slic(superpixels: Superpixels) -> Segment:
    """OpenCV's SLIC on one thread, Lab conversion included, with the same parameters.

    Raises:
        ImportError: no OpenCV, or one without `ximgproc`.
    """
    cv2: Any = import_module("cv2")
    if not hasattr(cv2, "ximgproc"):
        raise ImportError("this OpenCV has no ximgproc (opencv-contrib-python has)")
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
    """Times the making of superpixel maps of the training photos.

    One thread decodes, resizes and segments; so many workers could at best be so many times as fast
    as it: the ideal. A store reads and checks the labels and writes the maps besides, in 0, 1, 2,
    4, ... workers up to the number of cores.

    Args:
        data: photos, their size, and the superpixels' parameters.
        photos: a round, the files over and over.
        photos_slow: likewise, of what is slower than fast-slic.
        rounds: counted ones.

    Returns:
        Title, settings, rows (one a way) and ratios.
    """
    data.layout.prepare()
    files = data.layout.records("train")
    records, fewer = (list(islice(cycle(files), n)) for n in (photos, photos_slow))
    fast = replace(data.superpixels, backend="fast_slic")
    skimage = replace(data.superpixels, backend="skimage")
    cores = usable_cores()
    workers = [0, *(2**i for i in range(cores.bit_length()))]

    def one_thread(segment: Segment, records: list[Record], labels: bool = False) -> Function:
        def run() -> None:
            for record in records:
                image = read_record(record)[0] if labels else read_image(record.image)
                segment(resize_image(image, data.image_size))

        return run

    with TemporaryDirectory() as folder:

        def stored(superpixels: Superpixels, records: list[Record], num_workers: int) -> Function:
            store = SampleStore(folder, records, data.image_size, superpixels)
            return lambda: store.prepare(
                num_workers, f"{superpixels.backend}, {num_workers} workers"
            )

        def forget() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        most = f"store, {workers[-1]} workers"
        ways = {
            "fast-slic, one thread": one_thread(fast, records),
            f"fast-slic, one thread{_LABELS}": one_thread(fast, records, labels=True),
            **{f"fast-slic, store, {n} workers": stored(fast, records, n) for n in workers},
            "scikit-image, one thread": one_thread(skimage, fewer),
            f"scikit-image, {most}": stored(skimage, fewer, workers[-1]),
        }
        missing = {}
        try:
            ways["OpenCV, one thread"] = one_thread(opencv_slic(fast), fewer)
        except ImportError as error:
            missing["OpenCV"] = f"left out ({error})"
        seconds = times_in_turn(ways, rounds, before=forget)
    rates = {
        name: [(photos if name.startswith("fast-slic") else photos_slow) / s for s in found]
        for name, found in seconds.items()
    }
    ratios = {
        f"{n} workers / ideal{labels}, percent": ratio(
            rates[f"fast-slic, store, {n} workers"],
            [max(n, 1) / 100 * rate for rate in rates[f"fast-slic, one thread{labels}"]],
        )
        for labels in ("", _LABELS)
        for n in workers
    }
    for name in rates:
        library, _, way = name.partition(", ")
        if library != "fast-slic":
            ratios[f"fast-slic / {library}, {way}"] = ratio(rates[f"fast-slic, {way}"], rates[name])
    return {
        "title": "Superpixel maps",
        "rows": [
            {
                "way": name,
                "images/s (median)": f"{median(found):.1f}",
                "images/s (min)": f"{min(found):.1f}",
                "images/s (max)": f"{max(found):.1f}",
            }
            for name, found in rates.items()
        ],
        "ratios": ratios,
        "settings": {
            "data": files[0].image.parents[2].name,
            "image": "x".join(map(str, data.image_size)),
            "superpixels": fast.count,
            "iterations": fast.iterations,
            "photos a round": f"{photos} (others: {photos_slow}), of {len(files)} files",
            "rounds": rounds,
            "cores": cores,
            "one thread": "decodes, resizes, segments",
            "ideal": "workers times the rate of one thread",
            **missing,
        },
    }

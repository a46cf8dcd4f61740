"""What millions of photos take on a cluster, on paper, and how fast one command hands them out."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from rich.progress import track
from skimage import data

from benchmarks.measure import timed
from softfeat.actors import map_in_actors
from softfeat.extraction import extract, open_tables
from softfeat.segmenter import Segmenter


def cluster_costs(
    megapixels: float,
    repeats: int,
    millions: Sequence[float],
    cores: int,
    price: float,
    actors: Sequence[int],
    items: int,
) -> dict[str, Any]:
    """Measures the seconds of a photo on one core, and multiplies.

    Args:
        megapixels: Size of the photo.
        repeats: Number of times that it is measured.
        millions: Numbers of photos, in millions.
        cores: Cores of the cluster.
        price: Dollars for an hour of a core.
        actors: Numbers of actors to which one command hands out items that take no time.
        items: Number of these items.

    Returns:
        Result with a row per command and number of photos.
    """
    costs = _costs(megapixels, repeats)
    rates = {count: _rate(count, items) for count in track(actors, "actors")}
    fastest = rates[max(rates)]
    rows = []
    for command, (seconds, size) in costs.items():
        for number in millions:
            hours = number * 1e6 * seconds / 3600
            rows.append(
                {
                    "command": command,
                    "photos, millions": f"{number:g}",
                    "s a photo, one core": f"{seconds:.2f}",
                    "core hours": f"{hours:,.0f}",
                    f"hours with {cores:,} cores": f"{hours / cores:,.1f}",
                    "dollars": f"{hours * price:,.0f}",
                    "TB of results": f"{number * size:,.1f}",
                    "photos a second": f"{cores / seconds:,.0f}",
                }
            )
    handed = [{"actors": f"{n}", "items a second": f"{rate:,.0f}"} for n, rate in rates.items()]
    return {
        "title": "Photos by the million, on paper",
        "rows": rows,
        "tables": {"What one command hands out, items that take no time": handed},
        "ratios": {},
        "settings": {
            "photo": f"{megapixels:g} megapixels, JPEG",
            "dollars for an hour of a core": price,
            "items a second with the most actors": round(fastest),
            "note": "without starts, failures and the network",
        },
    }


@torch.inference_mode()
def _costs(megapixels: float, repeats: int) -> Mapping[str, tuple[float, float]]:
    """Seconds on one thread, and megabytes of results, of a photo by command."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    segmenter = Segmenter("general")
    times: dict[str, list[float]] = {"segment": [], "extract": []}
    sizes = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.jpg"
        picture = Image.fromarray(data.astronaut()).crop((0, 64, 512, 448))
        picture.resize((width, round(width * 3 / 4))).save(photo, quality=95)
        for _ in track(range(repeats + 1), "photos"):  # the first round warms up
            _, seconds = timed(lambda: segmenter(photo).save(folder / "layers"))
            times["segment"].append(seconds)
            with open_tables(folder / "tables", {}) as tables:
                found, seconds = timed(lambda: extract(segmenter, photo))
                times["extract"].append(seconds)
                if not tables.finished:
                    tables.add("photo.jpg", "photo.jpg", found)
        for command, part in (("segment", "layers"), ("extract", "tables")):
            files = [path for path in (folder / part).rglob("*") if path.is_file()]
            sizes[command] = sum(path.stat().st_size for path in files) / 1e6
    torch.set_num_threads(threads)
    return {command: (median(times[command][1:]), sizes[command]) for command in times}


def _rate(actors: int, items: int) -> float:
    """Items a second that are handed out to actors, and come back, once all actors have started."""
    import ray

    ray.init(
        "local",
        num_cpus=actors,
        include_dashboard=False,
        log_to_driver=False,
        ignore_reinit_error=True,
    )
    try:
        results = map_in_actors(_nothing, range(items), actors)
        started: set[int] = set()
        for count, (_, process) in enumerate(results):
            started.add(process)  # type: ignore[arg-type]
            if len(started) == actors or count > items // 2:
                break
        start = time.perf_counter()
        rest = sum(1 for _ in results)
        return rest / (time.perf_counter() - start)
    finally:
        ray.shutdown()


def _nothing(_item: int) -> int:
    return os.getpid()

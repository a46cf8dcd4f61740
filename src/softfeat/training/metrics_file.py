"""Metrics as a JSON file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from softfeat.atomic import replaced


def write_metrics(path: Path, metrics: Mapping[str, float]) -> None:
    """Writes metrics as sorted JSON.

    Values that are not finite are left out, such as NaN of a class without pixels.
    """
    numbers = {name: value for name, value in metrics.items() if math.isfinite(value)}
    text = json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False)
    with replaced(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")

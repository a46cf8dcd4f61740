import json
import math
from pathlib import Path

from softfeat.training.metrics_file import write_metrics


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", {"b": 0.5, "a": 1.0, "absent class": math.nan})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 1.0, "b": 0.5}

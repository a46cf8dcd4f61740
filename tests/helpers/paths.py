"""Where things lie, whatever folder the tests are started from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
WEIGHTS = ROOT / "weights"
RESULTS = ROOT / "benchmarks" / "results"

"""Where things lie, whatever folder the tests are started from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
RESULTS = ROOT / "benchmarks" / "results"

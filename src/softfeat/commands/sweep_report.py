"""Reports the results of a sweep: python -m src.sweep_report DIR."""

import argparse
from pathlib import Path

from softfeat.commands.cli import readable_errors
from softfeat.sweeps.jobs import Sweep


@readable_errors
def main() -> None:
    """Prints the table, writes report.csv, report.md and report.png into the directory."""
    parser = argparse.ArgumentParser(prog="python -m src.sweep_report")
    parser.add_argument(
        "dir", help="directory of a multirun, or of several multiruns; dir=DIR works, too"
    )
    Sweep(Path(parser.parse_args().dir.removeprefix("dir="))).write()


if __name__ == "__main__":
    main()

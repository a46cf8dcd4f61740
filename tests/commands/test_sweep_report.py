import csv
import sys
from pathlib import Path

import pytest
from PIL import Image

from softfeat.commands import sweep_report
from tests.helpers.sweeps import make_study


def test_the_report_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_study(tmp_path / "sweep")
    for argument in (str(sweep), f"dir={sweep}"):
        monkeypatch.setattr(sys, "argv", ["sweep_report", argument])
        sweep_report.main()
        printed = capsys.readouterr().out
        assert "job 1 failed with data.count=250: too | many" in printed
        assert str(sweep / "1" / "error.txt") in printed
    with (sweep / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["job"], r["data.count"], r["val/auc"]) for r in rows[:3]] == [
        ("2", "1000", "0.9"), ("0", "100", "0.7"), ("1", "250", ""),
    ]  # fmt: skip
    lines = (sweep / "report.md").read_text().splitlines()
    assert lines[2].startswith("| 2 | 1000 | 0.9 |")
    assert len({line.count("|") for line in lines}) == 1
    assert Image.open(sweep / "report.png").width > 300


def test_what_is_no_sweep_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep_report", str(tmp_path)])
    with pytest.raises(SystemExit):
        sweep_report.main()
    assert "no multirun.yaml" in capsys.readouterr().err

"""The benchmark of whole commands, with tiny photos, in this process."""

import sys
from collections.abc import Sequence

import pytest

from benchmarks import whole_commands as module
from benchmarks.tables import markdown
from benchmarks.whole_commands import Finished, whole_commands
from softfeat.cli import main
from softfeat.revision import revision


def test_versions_and_ways_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(python: str, arguments: Sequence[object]) -> Finished:
        texts = [str(argument) for argument in arguments]
        commands.append((python, texts))
        alone = [text for text in texts if text not in ("-j", "2")]
        main(["segment", "--overwrite", *alone], standalone_mode=False)
        return Finished(1.0 if python == sys.executable else 3.0, 10**9)

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "_SMALL", 0.003)
    monkeypatch.setattr(module, "_revision", lambda python: f"of {python}")
    result = whole_commands("python", [0.003], 1, 1, 2, 3)
    now, before = result["rows"]
    assert (now["version"], now["s"], now["difference"]) == ("this version", "1.0", "")
    assert (before["version"], before["s"], before["difference"]) == (
        "version before",
        "3.0",
        "0.000",
    )
    assert result["ratios"]["0.003 megapixels, version before / this version"]["median"] == 3
    assert len(result["ratios"]) == 3
    assert result["settings"]["version before"] == "of python"
    assert any(texts[-2:] == ["-j", "2"] for _, texts in commands)
    assert "| megapixels | version | s |" in markdown(result | {"machine": {}})


def test_the_revision_of_a_python() -> None:
    assert module._revision(sys.executable) == revision()[:7]


def test_a_command_is_run_and_its_errors_are_told(tmp_path: pytest.TempPathFactory) -> None:
    with pytest.raises(RuntimeError, match=r"photo\.jpg"):
        module._run(sys.executable, [f"{tmp_path}/photo.jpg", "-o", tmp_path])

import shutil
import subprocess
from pathlib import Path

import pytest

from src.utils.revision import revision

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def git(folder: Path, *arguments: str) -> str:
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *person, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_files_changed(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag does not stand in for the hash")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert revision(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert revision(tmp_path) == f"{commit}-dirty"


def test_none_outside_a_checkout(tmp_path: Path) -> None:
    assert revision(tmp_path) is None


def test_none_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision() is None

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from softfeat.revision import revision

INSTALLED = f"v{version('softfeat')}"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    git(folder, "init", "-q")
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_a_checkout_has_the_hash_of_its_commit(tmp_path: Path) -> None:
    commit = git(repository(tmp_path), "rev-parse", "HEAD")
    assert revision(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert revision(tmp_path) == f"{commit}-dirty"


def test_the_repository_of_a_user_does_not_count(tmp_path: Path) -> None:
    inside = repository(tmp_path) / "lib" / "python3.11"
    inside.mkdir(parents=True)
    assert revision(inside) == INSTALLED


def test_where_the_user_stands_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = revision()
    monkeypatch.chdir(repository(tmp_path))
    assert revision() == here


def test_a_folder_outside_a_checkout_has_the_version(tmp_path: Path) -> None:
    assert revision(tmp_path) == INSTALLED


def test_without_git_there_is_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert revision(tmp_path) == INSTALLED

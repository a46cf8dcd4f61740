"""Folders of results are whole or absent."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softfeat import results
from softfeat.names import folded

STEMS = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=90
)


def test_files_are_replaced_when_all_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with results.replacing(folder) as unfinished:
        for name in ("alpha_1.png", "alpha_2.png", "layers.psd"):
            (unfinished / name).write_text("old")
        results.write_summary(unfinished, {"seed": 0})
    (folder / "notes.txt").write_text("mine")
    assert results.is_finished(folder, {"seed": 0})
    assert not results.is_finished(folder, {"seed": 1})

    def write_and_fail() -> None:
        with results.replacing(folder) as unfinished:
            (unfinished / "alpha_1.png").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (folder / "alpha_1.png").read_text() == "old"
    assert results.is_finished(folder, {"seed": 0})

    with results.replacing(folder) as unfinished:
        (unfinished / "alpha_1.png").write_text("new")
        results.write_summary(unfinished, {"seed": 1})
    assert sorted(p.name for p in folder.iterdir()) == ["alpha_1.png", "notes.txt", "summary.json"]
    assert (folder / "alpha_1.png").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seed": 0}'])
def test_a_damaged_summary_means_unfinished(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    assert not results.is_finished(tmp_path, {"seed": 0})


def test_nothing_is_finished_where_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    results.write_summary(tmp_path, {"seed": 0})
    assert results.is_finished(tmp_path, {"seed": 0})
    (tmp_path / "a.png").unlink()
    assert not results.is_finished(tmp_path, {"seed": 0})


def test_files_that_have_changed_are_not_finished(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("whole")
    results.write_summary(tmp_path, {"seed": 0})
    for text in ("who", "", "wh0le", "whole and more"):
        file.write_text(text)
        assert not results.is_finished(tmp_path, {"seed": 0})
    file.write_text("whole")
    assert results.is_finished(tmp_path, {"seed": 0})


def write(folder: Path, text: str, *names: str) -> None:
    with results.replacing(folder) as unfinished:
        for name in names:
            (unfinished / name).write_text(text)
        results.write_summary(unfinished, {"input": ["/photos/a.jpg"], "seed": 0})


def test_a_kill_while_files_are_moved_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    write(folder, "old", "1.png", "2.png", "3.png")
    (folder / "notes.txt").write_text("mine")
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "2.png":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(folder, "new", "1.png", "2.png")
    assert not results.is_finished(folder, {"seed": 0})
    assert next(results.folders_for("a", "/photos/a.jpg", tmp_path)) == folder
    write(folder, "newer", "1.png")
    names = ["1.png", "notes.txt", "summary.json"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_summary_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    folder = tmp_path / "a"
    write(folder, "old", "1.png")
    summary = json.loads((folder / "summary.json").read_text())
    for files in (["..", ".", "", "../mine", "/mine", "a\0"], {"../mine": None}, [[]], 3):
        (folder / "summary.json").write_text(json.dumps({**summary, "files": files}))
        assert not results.is_finished(folder, {"seed": 0})
        write(folder, "new", "1.png")
    assert (tmp_path / "mine").exists()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.01234567.softfeat-unfinished", ".b\n.89abcdef.softfeat-unfinished", "a", ".b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    (tmp_path / ".c.softfeat-lock").touch()
    with results.locked(tmp_path / "A"):  # a process is working on it
        results.remove_unfinished(tmp_path)
        left = {p.name for p in tmp_path.iterdir()} - {".a.softfeat-lock"}
        # This process holds the lock itself, so that it may remove the folder.
        assert left == {"a", ".b"}
    assert {p.name for p in tmp_path.iterdir()} == {"a", ".b"}


def test_a_folder_that_holds_something_else_is_not_used(tmp_path: Path) -> None:
    def folder_for(stem: str, identity: str) -> Path:
        return next(results.folders_for(stem, identity, tmp_path))

    assert folder_for("a", "/photos/a.jpg") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    assert folder_for("a", "/photos/a.jpg") == tmp_path / "a"
    results.write_summary(tmp_path / "a", {"input": ["/photos/a.jpg", 1, 2]})
    assert folder_for("a", "/photos/a.jpg") == tmp_path / "a"
    assert folder_for("a", "/photos/a.png") == tmp_path / "a-2"
    assert folder_for("A", "/photos/A.png") == tmp_path / "A-2"  # some systems ignore case
    (tmp_path / "a-3").mkdir()
    results.write_summary(tmp_path / "a-3", {"input": ["/photos/a.png", 1, 2]})
    assert folder_for("a", "/photos/a.png") == tmp_path / "a-3"  # its own, not a free one


@pytest.mark.parametrize("stem", ["", ".", ".."])
def test_no_photo_gets_a_folder_outside(tmp_path: Path, stem: str) -> None:
    assert next(results.folders_for(stem, "/photos/x", tmp_path)) == tmp_path / "photo"


@settings(max_examples=20)
@given(st.lists(STEMS, max_size=6))
def test_photos_of_any_names_have_folders_of_their_own(stems: list[str]) -> None:
    with TemporaryDirectory() as name:
        output = Path(name)
        for number, stem in enumerate(stems):
            with results.claimed(stem, f"/{number}/{stem}", output) as folder:
                assert folder is not None
                assert folder.parent == output
                assert not folder.exists()
                folder.mkdir()
                results.write_summary(folder, {"input": [f"/{number}/{stem}"]})
        assert len({folded(path.name) for path in output.iterdir()}) == len(stems)

"""Folders of results are whole or absent."""

from pathlib import Path

import pytest

from softfeat import results


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

    (tmp_path / ".a.unfinished").mkdir()
    (tmp_path / ".a.unfinished" / "half").touch()  # left by a run that was killed
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


def test_a_folder_that_holds_something_else_is_not_used(tmp_path: Path) -> None:
    assert results.folder_for("a", "/photos/a.jpg", tmp_path) == tmp_path / "a"
    (tmp_path / "a").mkdir()
    assert results.folder_for("a", "/photos/a.jpg", tmp_path) == tmp_path / "a"
    results.write_summary(tmp_path / "a", {"input": ["/photos/a.jpg", 1, 2]})
    assert results.folder_for("a", "/photos/a.jpg", tmp_path) == tmp_path / "a"
    assert results.folder_for("a", "/photos/a.png", tmp_path) == tmp_path / "a-2"

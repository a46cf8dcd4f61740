from pathlib import Path

import pytest

from softfeat.atomic import check_writable, replaced


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text("old")

    def is_killed() -> None:
        with replaced(file) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_killed()
    assert file.read_text() == "old"
    with replaced(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_processes_do_not_share_a_name(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 251 + ".csv")
    with replaced(file) as one, replaced(file) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("old")
    (tmp_path / "link.json").symlink_to("file.json")
    with replaced(tmp_path / "link.json") as partial:
        partial.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "file.json").read_text() == "new"


def test_what_cannot_be_written_is_found_out_before(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere/file", "x" * 256):
        with pytest.raises(OSError):  # noqa: PT011, of several kinds
            check_writable(tmp_path / name)
    check_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

from pathlib import Path

import pytest

from softfeat.data.cache_folder import CacheFolder
from softfeat.data.layouts import DataError


def test_a_folder_exists_once_it_is_filled(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache" / "kind" / "key")
    with folder.filling(1) as partial:
        assert partial is not None
        (partial / "file").write_text("whole")
        assert not folder.complete
    assert folder.complete
    assert (folder.path / "file").read_text() == "whole"
    with folder.filling(1) as partial:
        assert partial is None


def test_what_a_failed_run_left_is_continued(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "kind" / "key")
    with pytest.raises(RuntimeError), folder.filling(1) as partial:  # noqa: PT012
        assert partial is not None
        (partial / "half").write_text("of it")
        raise RuntimeError
    assert not folder.complete
    with folder.filling(1) as partial:
        assert partial is not None
        assert (partial / "half").read_text() == "of it"
    assert folder.complete


def test_names_with_dots_do_not_share_a_partial_folder(tmp_path: Path) -> None:
    with (
        CacheFolder(tmp_path / "a.1").filling(1) as one,
        CacheFolder(tmp_path / "a.2").filling(1) as other,
    ):
        assert one != other


def test_errors_of_the_disk_name_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = CacheFolder(tmp_path / "file" / "key")
    with (
        pytest.raises(DataError, match=r"file failed .*data\.cache_dir=FOLDER"),
        folder.filling(1),
    ):
        pass

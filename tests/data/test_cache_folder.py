import errno
import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from softfeat.data.cache_folder import CacheFolder, reserve
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


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, r"is full: 12,345 bytes are needed, [\d,]+ are free"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EPERM, "cannot be written"),
        (errno.EIO, r"failed \(.*Input/output error"),
    ],
)
def test_an_error_while_a_folder_is_filled_is_explained(
    tmp_path: Path, code: int, words: str
) -> None:
    folder = CacheFolder(tmp_path / "kind" / "key")
    with (
        pytest.raises(DataError, match=rf"kind {words}.*data\.cache_dir=FOLDER"),
        folder.filling(12_345),
    ):
        raise OSError(code, os.strerror(code))
    assert not folder.complete


def test_who_waits_for_another_process_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CacheFolder(tmp_path / "key")

    def fill() -> None:
        with folder.filling(1) as partial:
            assert partial is not None

    printed = ""
    waiting = threading.Thread(target=fill)
    with FileLock(f"{folder.path}.lock"):
        waiting.start()
        deadline = time.monotonic() + 30
        while not printed and time.monotonic() < deadline:
            time.sleep(0.01)
            printed = capsys.readouterr().out
        assert not folder.complete
    waiting.join(30)
    assert "another process is computing key; waiting for it" in printed
    assert folder.complete


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_reserved_space_is_that_of_the_file(tmp_path: Path, size: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        reserve(file.fileno(), size)
    assert (tmp_path / "file").stat().st_size == size

"""Numbers of threads, by affinity, quotas and the user's word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from softfeat import threads
from softfeat.threads import limit_threads, usable_cores

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the control groups of a machine of eight cores, where none has a limit."""
    monkeypatch.setattr(threads, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    (tmp_path / "mount/outer/inner").mkdir(parents=True)
    return tmp_path / "mount"


def test_without_a_quota_the_affinity_counts(groups: Path) -> None:
    assert usable_cores() == 8
    (groups / "outer/inner/cpu.max").write_text("max 100000\n")
    assert usable_cores() == 8
    (groups.parent / "cgroup").unlink()
    assert usable_cores() == 8


@pytest.mark.parametrize("folder", ["outer/inner", "outer", "."])
@pytest.mark.parametrize(
    ("quota", "cores"), [("300000", 3), ("150000", 1), ("50000", 1), ("1600000", 8)]
)
def test_quotas_of_all_groups_around_a_process_count(
    groups: Path, folder: str, quota: str, cores: int
) -> None:
    (groups / folder / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores() == cores


def test_in_a_container_the_path_is_that_of_the_host(groups: Path) -> None:
    (groups.parent / "cgroup").write_text("0::/../../docker/1234\n")
    (groups / "cpu.max").write_text("200000 100000\n")
    assert usable_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 8)])
def test_quotas_of_version_1(groups: Path, quota: str, cores: int) -> None:
    (groups.parent / "cgroup").write_text("5:memory:/outer\n4:cpu,cpuacct:/outer\n")
    folder = groups / "cpu,cpuacct" / "outer"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == cores


def test_damaged_files_are_no_limit(groups: Path) -> None:
    (groups / "cpu.max").write_text("")
    (groups / "outer/cpu.max").write_text("many 100000")
    assert usable_cores() == 8


def test_what_the_user_says_comes_first(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*COUNTS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    limit_threads()
    assert [os.environ[name] for name in COUNTS] == ["8", "1", "8"]
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    limit_threads(2)
    assert [os.environ[name] for name in COUNTS] == ["2", "1", "2"]

    monkeypatch.delenv("MKL_NUM_THREADS")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    limit_threads()
    assert [os.environ[name] for name in COUNTS] == ["3", "2", "3"]
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_the_command_sets_them_before_any_library_reads_them() -> None:
    program = "import softfeat.cli, sys; print({'numpy', 'torch'} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert loaded.stdout == b"set()\n"


def test_no_compiler_is_imported_for_a_photo() -> None:
    """It would take a second."""
    program = (
        "import softfeat.batch, softfeat.segmenter, sys; print({'torch._dynamo'} & {*sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert loaded.stdout == b"set()\n"

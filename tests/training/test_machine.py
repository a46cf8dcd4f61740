import pytest

from softfeat.training.machine import machine


def test_settings_of_the_allocator_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert machine()["MALLOC_MMAP_MAX_"] == "0"
    monkeypatch.delenv("MALLOC_MMAP_MAX_")
    assert "MALLOC_MMAP_MAX_" not in machine()

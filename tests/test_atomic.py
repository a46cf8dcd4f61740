from pathlib import Path

import pytest

from softfeat.atomic import replaced


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

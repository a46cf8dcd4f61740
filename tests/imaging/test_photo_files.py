"""Which files are photos."""

import os
from pathlib import Path

import pytest

from softfeat.imaging.photo_files import Found, find_photos, photos_in
from softfeat.results import replacing, write_summary
from tests.helpers.photos import picture


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(4, 4).save(path, "PNG")
    return path


def names(found: Found, folder: Path) -> tuple[list[str], list[str]]:
    def relative(paths: list[Path]) -> list[str]:
        return [str(path.relative_to(folder)) for path in paths]

    return relative(found.photos), relative(found.others)


def test_content_or_suffix_make_a_photo(tmp_path: Path) -> None:
    for name in ("no suffix", "b.png", "a.PNG", "c.dat", "deep/er/d.jpg", "dir.jpg/e.png"):
        make(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "damaged.JPG").write_text("no photo")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jpg").mkdir()
    photos, others = names(photos_in(tmp_path), tmp_path)
    assert photos == [
        *("a.PNG", "b.png", "broken.png", "c.dat", "damaged.JPG", "no suffix"),
        *("deep/er/d.jpg", "dir.jpg/e.png", "empty.jpg"),
    ]
    assert others == ["broken", "notes.txt", "pipe"]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in (".a.png", "._b.jpg", "Thumbs.db", ".DS_Store", ".deep/a.png", "desktop.ini"):
        make(tmp_path / name)
    assert photos_in(tmp_path) == Found()
    assert find_photos([str(tmp_path / ".a*")]).photos == [tmp_path / ".a.png"]
    with pytest.raises(FileNotFoundError):
        find_photos([str(tmp_path / "*")])
    assert find_photos([str(tmp_path / ".a.png")]).photos == [tmp_path / ".a.png"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.png")
    make(tmp_path / "out" / "b.png")
    for name, target in (("loop", "."), ("up", ".."), ("x", "../out"), ("y", "../out")):
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "in" / "self").symlink_to("self")
    photos, others = names(photos_in(tmp_path / "in"), tmp_path / "in")
    assert photos == ["a.png", "up/out/b.png"]
    assert others == ["self"]


def test_finished_layers_are_no_photos(tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    with replacing(tmp_path / "layers" / "a") as unfinished:
        make(unfinished / "alpha_1.png")
        (unfinished / "layers.psd").touch()
        write_summary(unfinished, {"coverage": [1.0]})
    make(tmp_path / "layers" / "a" / "mine.png")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "summary.json")
    make(tmp_path / "c" / "mine.png")
    (tmp_path / "c" / "summary.json").write_text('{"files": ["mine.png"]}')  # of another program
    photos, others = names(photos_in(tmp_path), tmp_path)
    assert photos == ["a.png", "c/mine.png", "layers/a/mine.png"]
    assert others == ["b/summary.json", "c/summary.json"]


def test_a_folder_that_cannot_be_searched_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.png")
    (tmp_path / "b").mkdir()
    iterdir = Path.iterdir

    def forbidden(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert names(photos_in(tmp_path), tmp_path) == (["a.png", "b"], [])


def test_patterns_and_names_with_their_characters(tmp_path: Path) -> None:
    for name in ("a.png", "a[1].png", "deep/b.png"):
        make(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    photos, others = names(find_photos([f"{tmp_path}/*", str(tmp_path / "a.png")]), tmp_path)
    assert photos == ["a.png", "a[1].png", "deep/b.png"]
    assert others == ["notes.txt"]
    assert find_photos([f"{tmp_path}/a[1].png"]).photos == [tmp_path / "a[1].png"]


@pytest.mark.parametrize("text", ["nowhere.jpg", "nowhere/*.jpg", "x" * 300, "**.jpg"])
def test_no_photos_is_an_error(text: str) -> None:
    with pytest.raises(FileNotFoundError, match="set input="):
        find_photos([text])


def test_an_empty_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="is empty"):
        find_photos([""])

"""Which files are photos, and which label belongs to which photo."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softfeat.data import files as files_module
from softfeat.data.files import find_labels, list_photos, named


def save(path: Path, fmt: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path, fmt)
    return path


def test_photos_are_found_by_suffix_by_content_and_in_subfolders(tmp_path: Path) -> None:
    names = ["a.jpg", "b.GIF", "c.avif", "d.jp2", "e.tga", "sub/deep/f.jfif", "no suffix", "g.dat"]
    formats = {"e.tga": "TGA", "sub/deep/f.jfif": "JPEG", "no suffix": "PNG", "g.dat": "BMP"}
    expected = [save(tmp_path / name, formats.get(name)) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_photos(tmp_path) == sorted(expected)


def test_clutter_is_ignored_quietly_and_other_files_are_named(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.jpg")
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", ".hidden/b.jpg", "__MACOSX/._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    for name in ("notes.txt", "clip.mp4"):
        (tmp_path / name).write_text("no picture")
    with pytest.warns(UserWarning, match=r"skipped 2 files \(clip.mp4, notes.txt\)") as told:
        assert list_photos(tmp_path) == [photo]
    assert len(told) == 1


def test_only_unknown_suffixes_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def looked_at(path: Path) -> bool:
        opened.append(path.name)
        return True

    monkeypatch.setattr(files_module, "is_picture", looked_at)
    for name in ("a.jpg", "b.png", "c.xyz"):
        (tmp_path / name).write_bytes(b"")
    assert len(list_photos(tmp_path)) == 3
    assert opened == ["c.xyz"]


def test_links_pipes_and_loops(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere" / "b.jpg")
    folder = tmp_path / "photos"
    save(folder / "a.jpg")
    (folder / "linked").symlink_to(elsewhere.parent)
    (folder / "loop").symlink_to(folder)
    (folder / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(folder / "pipe.jpg")
    names = [str(path.relative_to(folder)) for path in list_photos(folder)]
    assert names == ["a.jpg", "broken.jpg", "linked/b.jpg"]


def test_a_label_is_the_png_with_the_name_or_the_only_picture(tmp_path: Path) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    stems = ("a", "b", "c", "d.e", "sub/a", "none")
    paths = [save(photos / f"{stem}.jpg") for stem in stems]
    for name in ("a.png", "a.bmp", "b.TIF", "c.bmp", "c.gif", "d.e.PNG", "sub/a.png"):
        save(labels / name)
    (labels / "a.json").write_text("{}")
    found = [str(path.relative_to(labels)) for path in find_labels(paths, photos, labels)]
    assert found == ["a.png", "b.TIF", "c.png", "d.e.PNG", "sub/a.png", "none.png"]


def test_labels_without_a_photo_are_counted_and_named(tmp_path: Path) -> None:
    photo = save(tmp_path / "photos" / "a.jpg")
    for name in ("a", "x", "y"):
        save(tmp_path / "labels" / f"{name}.png")
    with pytest.warns(UserWarning, match=r"2 labels \(x.png, y.png\) without a photo"):
        find_labels([photo], tmp_path / "photos", tmp_path / "labels")
    shutil.rmtree(tmp_path / "labels")
    assert find_labels([photo], tmp_path / "photos", tmp_path / "labels")[0].name == "a.png"


def test_at_most_five_files_are_named() -> None:
    assert named([Path(f"{i}.png") for i in range(9)], "label").endswith("(0.png, 1.png, 2.png, "
        "3.png, 4.png, ...)")  # fmt: skip

"""Photos and results at URLs: an object store as S3, and a file system that fsspec knows."""

import json
import pickle
import re
import sys
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import dataset
from pyarrow.fs import FileSystem

pytest.importorskip("moto", reason="needs moto: make install")

import boto3
from moto.server import ThreadedMotoServer

from softfeat import storage
from softfeat.cli import main
from softfeat.imaging.photo_files import find_photos_at
from softfeat.remote_results import finished_summary
from softfeat.storage import LocalFolder, RemoteFolder, RemotePhoto
from tests.helpers.photos import picture, write_checkpoint


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteFolder]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.resource("s3", endpoint_url=f"http://{address}")
    s3.create_bucket(Bucket="bucket")
    yield RemoteFolder(f"s3://bucket?endpoint_override={address}&scheme=http")
    s3.Bucket("bucket").objects.all().delete()
    s3.Bucket("bucket").delete()


@pytest.fixture
def memory() -> Iterator[RemoteFolder]:
    yield RemoteFolder("memory://bucket")
    import fsspec

    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["bucket", "memory", "disk", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Folder:
    if request.param == "disk":
        return LocalFolder(tmp_path)
    if request.param == "file":
        return RemoteFolder(tmp_path.as_uri())
    return request.getfixturevalue(request.param)


def test_a_folder(folder: storage.Folder) -> None:
    assert folder.names("part") == []
    folder.write("part/b", b"bb")
    folder.write("part/a", b"old")
    folder.write("part/a", b"new")
    folder.write("part/inner/c", b"c")
    assert folder.names("part") == ["a", "b"]  # and no unfinished ones
    with folder.opened("part/a") as file:
        file.seek(1)
        assert file.read() == b"ew"
    folder.delete("part/a")
    folder.delete("part/a")
    assert folder.names("part") == ["b"]


def test_a_remote_folder(bucket: RemoteFolder) -> None:
    inner = bucket / "x y" / "ü"
    inner.write("a+b.jpg", b"123")
    assert inner.sizes() == {"a+b.jpg": 3}
    assert inner.read("a+b.jpg") == b"123"
    assert inner.read("none") is None
    (photo,) = pickle.loads(pickle.dumps(bucket)).files()
    assert (photo.name, photo.size) == ("a+b.jpg", 3)
    assert photo.read().read() == b"123"
    assert "?" not in str(inner)  # which may hold what is secret
    assert "?" not in str(photo.identity)


def at(folder: RemoteFolder, inner: str) -> str:
    """A URL as a user writes it."""
    address, mark, settings = folder.url.partition("?")
    return f"{address}/{inner}{mark}{settings}"


def save(bucket: RemoteFolder, *names: str) -> None:
    for number, name in enumerate(names):
        file = BytesIO()
        picture(40, 32, seed=number).save(file, "PNG")
        bucket.write(name, file.getvalue())


def test_photos_are_found_by_their_names(bucket: RemoteFolder) -> None:
    save(bucket, "in/b.PNG", "in/inner/a.png", "in/.hidden.png", "in/done/alpha_1.png")
    save(bucket, "in/other/c.png", "in/.hidden/d.png")
    bucket.write("in/done/summary.json", b'{"coverage": [1], "files": {}}')
    bucket.write("in/other/summary.json", b"{}")  # of another program
    bucket.write("in/notes.txt", b"text")
    photos, others = find_photos_at(at(bucket, "in"))
    assert [photo.name for photo in photos] == ["b.PNG", "a.png", "c.png"]
    assert [Path(other).name for other in others] == ["notes.txt", "summary.json"]
    ((one,), _) = find_photos_at(at(bucket, "in/b.PNG"))
    assert one.identity == photos[0].identity
    ((missing,), _) = find_photos_at(at(bucket, "none.png"))
    with pytest.raises(FileNotFoundError):
        missing.read()
    with pytest.raises(ValueError, match="no photos there"):
        find_photos_at(at(bucket, "in/done"))


def test_versions_of_a_photo_differ(memory: RemoteFolder) -> None:
    """Also where a store knows no times that pyarrow reads."""
    identities = set()
    for content in (b"one", b"two"):
        memory.write("a.jpg", content)
        ((photo,), _) = find_photos_at(at(memory, "a.jpg"))
        assert photo.identity == memory.files()[0].identity
        identities.add(str(photo.identity))
    assert len(identities) == 2


def test_options_tell_photos_of_a_web_server_apart() -> None:
    one, two = (RemotePhoto(RemoteFolder(f"https://a.org/a.jpg?id={n}")) for n in "12")
    assert one.identity != two.identity
    assert "id=" not in str(one.identity)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "nonsense://key:secret@a/b?more=secret",
            "nonsense://key@a/b: such a URL cannot be opened",
        ),
        ("s3://bucket?nonsense=1", "cannot be opened"),
        ("sftp://host/a", "needs|requires"),
    ],
)
def test_urls_that_cannot_be_used(url: str, text: str, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "weights.ckpt")
    call = ["segment", "--weights", str(weights), "--size", "48"]
    for more in ([url, "-o", str(tmp_path)], [str(weights), "-o", url]):
        result = CliRunner().invoke(main, [*call, *more])
        assert result.exit_code == 2, result.output
        assert re.search(text, result.stderr)
        assert len(result.stderr.splitlines()) == 1
        assert "secret" not in result.stderr


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "weights.ckpt")


def run(command: str, weights: Path, *arguments: object) -> Result:
    options = ["--weights", weights, "--size", 48, "--json", *arguments]
    return CliRunner().invoke(main, [command, *map(str, options)])


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("place", ["bucket", "memory"])
def test_layers_at_a_url(place: str, weights: Path, request: pytest.FixtureRequest) -> None:
    bucket: RemoteFolder = request.getfixturevalue(place)
    save(bucket, "in/a.png", "in/inner/a.png")
    bucket.write("in/bad.png", b"nothing")
    command = partial(run, "segment", weights, at(bucket, "in"), "-o", at(bucket, "out"))
    first = command()
    assert first.exit_code == 1, first.output
    assert sorted(line["status"] for line in lines(first)) == ["failed", "segmented", "segmented"]
    folders = {line["folder"] for line in lines(first) if line["status"] == "segmented"}
    assert len(folders) == 2  # though both photos have one name
    path = sorted(folders)[0]
    written = bucket / "out" / path.rpartition("/")[2]
    assert {"summary.json", "alpha_1.png"} <= written.sizes().keys()
    assert sorted(line["status"] for line in lines(command())) == ["failed", "skipped", "skipped"]
    # What is cut short or missing is written again; other settings leave no old files.
    written.write("alpha_1.png", b"short")
    assert sorted(line["status"] for line in lines(command())) == ["failed", "segmented", "skipped"]
    assert sorted(line["status"] for line in lines(command("-k", 2))) == [
        "failed",
        "segmented",
        "segmented",
    ]
    assert "alpha_3.png" not in written.sizes()
    assert not any(name.startswith(".") for name in written.sizes())


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"files": {"a": 1}}', b"\xff"])
def test_a_damaged_summary_is_not_finished(memory: RemoteFolder, damage: bytes) -> None:
    memory.write("summary.json", damage)
    assert finished_summary(memory, {}) is None


def test_tables_at_a_url(bucket: RemoteFolder, weights: Path) -> None:
    save(bucket, "in/a.png", "in/b.png")
    command = partial(run, "extract", weights, "-o", at(bucket, "out"))
    assert command(at(bucket, "in/a.png")).exit_code == 0
    # What a killed process leaves: superpixels without their photos.
    bucket.write("out/superpixels/dead.parquet", b"")
    result = command(at(bucket, "in"))
    assert sorted(line["status"] for line in lines(result)) == ["extracted", "skipped"]
    assert len(bucket.names("out/superpixels")) == 2
    system, path = FileSystem.from_uri(at(bucket, "out"))
    photos = dataset.dataset(f"{path}/photos", filesystem=system).to_table().to_pylist()
    assert sorted(Path(row["photo"]).name for row in photos) == ["a.png", "b.png"]


def test_a_bucket_that_does_not_exist(bucket: RemoteFolder, weights: Path) -> None:
    url = bucket.url.replace("bucket", "none")
    result = run("extract", weights, url, "-o", bucket.url)
    assert result.exit_code in (1, 2)
    assert "none" in result.stderr
    result = run("extract", weights, weights, "-o", url)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(ImportError, match=r'URLs need pyarrow: pip install "softfeat\[tables\]"'):
        RemotePhoto(RemoteFolder("s3://bucket/a.jpg")).read()

"""The wheel holds the product and nothing else, and works far away from a checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from tests.helpers.paths import CONF, ROOT, WEIGHTS

pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path) -> str:
    """Runs a command in a folder, with no path to the checkout; returns what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because setuptools writes into the folder it builds from."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("src", "conf", "weights"):
        ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation"], checkout)
    (path,) = (checkout / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that the wheel is installed into.

    The environment sees the packages of this one, except an editable softfeat: Python does not read
    the .pth files of a folder that a .pth file names.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    commands = folder / "bin"
    script = "import site; print(site.getsitepackages()[0])"
    packages = run([commands / "python", "-c", script], folder)
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(packages.strip()) / "seen.pth").write_text("\n".join(seen))
    pip = [sys.executable, "-m", "pip", "--python", commands / "python"]
    run([*pip, "install", "--no-deps", "--no-index", wheel], folder)
    return commands


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's repository, which has modules and configurations of its own under our names."""
    for package in ("src", "conf", "weights", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('the user's')")
    (tmp_path / "conf" / "train.yaml").write_text("not: ours\n")
    run(["git", "init", "-q"], tmp_path)
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    run(["git", *author, "commit", "-q", "--allow-empty", "-m", "a"], tmp_path)
    rows = np.arange(40)[:, None, None].repeat(48, 1).repeat(3, 2)
    Image.fromarray(((rows >= 20) * 180 + rows).astype(np.uint8)).save(tmp_path / "photo (1).jpg")
    return tmp_path


def test_it_holds_code_configuration_and_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"softfeat-{version('softfeat')}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"softfeat", info}
    for source, suffixes, package in (
        (ROOT / "src" / "softfeat", ["py"], "softfeat"),
        (CONF, ["py", "yaml"], "softfeat/conf"),
        (WEIGHTS, ["py", "safetensors", "md"], "softfeat/weights"),
    ):
        files = [file for suffix in suffixes for file in source.rglob(f"*.{suffix}")]
        missing = {f"{package}/{file.relative_to(source).as_posix()}" for file in files} - names
        assert files
        assert not missing, "add them to pyproject.toml, [tool.setuptools]"
    assert "softfeat/weights/SHA256SUMS" in names


def test_it_is_not_the_checkout_that_is_imported(installed: Path, elsewhere: Path) -> None:
    script = "import softfeat; print(softfeat.__file__)"
    imported = Path(run([installed / "python", "-c", script], elsewhere).strip())
    assert imported.is_relative_to(installed.parent)


def test_its_revision_is_its_version(installed: Path, elsewhere: Path) -> None:
    script = "from softfeat.revision import revision; print(revision())"
    printed = run([installed / "python", "-c", script], elsewhere)
    assert printed.strip() == f"v{version('softfeat')}"


def test_it_brings_its_weights(installed: Path, elsewhere: Path) -> None:
    script = (
        "import torch; from softfeat.models.extractor import load_extractor\n"
        "print(*load_extractor('general')(torch.zeros(1, 3, 32, 40)).shape)"
    )
    assert run([installed / "python", "-c", script], elsewhere).split() == ["1", "128", "32", "40"]


def test_it_segments_a_photo(installed: Path, elsewhere: Path) -> None:
    run([installed / "softfeat", "segment", "photo (1).jpg", "-o", "layers"], elsewhere)
    assert list((elsewhere / "layers").rglob("alpha_1.png"))


def test_it_serves_the_page(installed: Path, elsewhere: Path) -> None:
    pytest.importorskip("gradio", reason="needs gradio: make install")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [installed / "softfeat", "app", "--port", "0"]
    with subprocess.Popen(
        command, cwd=elsewhere, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line.startswith("the page is at "), line + process.stderr.read()
            with urlopen(line.split()[4]) as answer:
                assert b"softfeat" in answer.read()
        finally:
            process.terminate()
        assert process.wait(120) == 143


def test_it_trains(installed: Path, elsewhere: Path) -> None:
    few = "data.layout.counts={train:4,val:1,test:1}"
    run([installed / "softfeat-train", "debug=one_step", few, "run_dir=run"], elsewhere)
    assert (elsewhere / "run" / "checkpoints" / "best.ckpt").is_file()


def test_its_commands_can_be_imported(installed: Path, elsewhere: Path) -> None:
    script = (
        "from importlib.metadata import distribution\n"
        "for command in distribution('softfeat').entry_points: print(callable(command.load()))"
    )
    printed = run([installed / "python", "-c", script], elsewhere).split()
    assert printed == ["True"] * len(list(installed.glob("softfeat*")))

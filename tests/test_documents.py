"""The documents are right: their commands, code, links, names and figures."""

import ast
import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from softfeat.commands.train import train
from tests.helpers.datasets import make_folder
from tests.helpers.paths import ROOT
from tests.helpers.trainings import compose_train

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "weights").glob("*.md")),
]
CURRENT = [document for document in DOCUMENTS if document.stem != "CHANGELOG"]  # not of the past
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_HYDRA = ("sweep_report",)


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("document", paths, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(text: str, language: str) -> list[str]:
    return [block for kind, block in FENCE.findall(text) if kind == language]


def spans(document: Path) -> list[str]:
    """What stands in backquotes within the text, without the tables of changed lines of code."""
    if document.suffix == ".ipynb":
        cells = nbformat.read(document, nbformat.NO_CONVERT).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = FENCE.sub("", document.read_text("utf-8"))
        changed = re.compile(r" -> |\| `line \d+, ")  # a long change is cut before its arrow
        text = "\n".join(line for line in text.splitlines() if not changed.search(line))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands() -> list[Any]:
    """Each command of each bash block, as words without environment variables."""
    found = []
    for document in CURRENT:
        for block in blocks(document.read_text("utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                if words:
                    found.append(pytest.param(words, id=f"{document.stem}: {' '.join(words)}"))
    return found


def first_of_each(overrides: list[str]) -> list[str]:
    """Overrides of a multirun as those of its first job."""
    chosen = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            chosen.append(f"{override.get_key_element()}={value}")
        else:
            chosen.append(override.input_line)
    return chosen


def compose_command(words: list[str]) -> DictConfig:
    """The configuration of `python -m src.NAME ...`, `softfeat-NAME ...`, `-m benchmarks ...`."""
    if words[:2] == ["python", "-m"]:
        module, arguments = words[2], words[3:]
        assert importlib.util.find_spec(module), f"no module {module}"
    else:
        module, arguments = words[0].replace("-", "_"), words[1:]
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert words[0] in scripts, f"no command {words[0]}"
    name = re.sub(r"^(src\.|softfeat_)", "", module)
    if name in NOT_HYDRA:
        return OmegaConf.create({})
    top = name.partition(".")[0]
    package = f"{top}.conf" if top in ("benchmarks", "faults") else "softfeat.conf"
    config = {"benchmarks": "benchmark", "benchmarks.report": "report"}.get(name, name)
    overrides = first_of_each([word for word in arguments if word != "-m"])
    with initialize_config_module(package, version_base="1.3"):
        return compose(config, overrides)


def check_click(words: list[str]) -> None:
    cli = pytest.importorskip("softfeat.cli").main
    command = cli.commands[words[1]]
    arguments = words[2:]
    for word in arguments:
        if word.endswith((".jpg", ".png")):
            Image.new("RGB", (640, 480)).save(word)
    assert command.make_context(words[1], arguments)


@pytest.mark.parametrize("words", commands())
def test_command(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command exists, and takes its options."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for target in (word for word in words[1:] if "=" not in word):
            assert target in targets
    elif words[0] == "python" or words[0].startswith("softfeat-"):
        cfg = compose_command(words)
        assert OmegaConf.missing_keys(cfg) <= {"name"}  # a default of the training has none
    elif words[0] == "softfeat":
        monkeypatch.chdir(tmp_path)
        check_click(words)
    elif words[0] == "pip":
        for extras in re.findall(r"\[(.*)\]", " ".join(words)):
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert set(extras.split(",")) <= set(project["optional-dependencies"])
    elif words[0] == "docker":  # it is not built here, but has all that it copies
        lines = re.findall(r"^COPY ([^-].*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert all((ROOT / name).exists() for line in lines for name in line.split())
        assert lines
    else:
        assert words[0] in ("wandb", "sha256sum"), f"say how to check {words[0]}"


def test_a_wrong_key_or_target_is_found() -> None:
    for words in ("python -m src.train model.colour=red", "python -m src.train experiment=none"):
        with pytest.raises(Exception, match=r"colour|none"):
            compose_command(words.split())
    with pytest.raises(AssertionError, match="no module"):
        compose_command(["python", "-m", "src.nothing"])


def test_the_training_of_the_readme_runs(tmp_path: Path) -> None:
    (line,) = re.findall(r"^softfeat-train .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    folder = make_folder(tmp_path / "folder")
    options = [
        "debug=one_step",
        "trainer.accelerator=cpu",
        "data.image_size=[48,48]",
        "data.superpixels.count=30",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"run_dir={tmp_path / 'run'}",
        "run_id=x",
    ]
    cfg = compose_train(*line.replace("FOLDER", str(folder)).split()[1:], *options)
    assert cfg.name == "mine"
    assert train(cfg)["steps"] == 1


def run_blocks(document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    photo = Image.fromarray(pixels).resize((440, 330), Image.Resampling.BICUBIC)
    photo.save("photo.jpg")
    code = blocks(document.read_text("utf-8"), "python")
    assert code
    for block in code:
        exec(compile(block, str(document), "exec"), {"__name__": document.stem})


@pytest.mark.slow
@named([ROOT / "README.md", ROOT / "docs" / "photos.md", ROOT / "docs" / "clicks.md"])
def test_code_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("softfeat.segmenter")
    run_blocks(document, tmp_path, monkeypatch)


def test_all_code_is_run() -> None:
    tested = {"README.md", "photos.md", "clicks.md", "other_networks.md", "many_photos.md"}
    for document in CURRENT:
        assert document.name in tested or not blocks(document.read_text("utf-8"), "python")


@pytest.mark.slow
def test_training_by_ray_train(tmp_path: Path) -> None:
    """The code of the page, with two workers on this machine and a tiny training."""
    pytest.importorskip("ray", reason="needs ray: make install")
    (code,) = blocks((ROOT / "docs" / "many_photos.md").read_text("utf-8"), "python")
    options = ["data.image_size=[64,64]", "data.superpixels.count=50", "data.steps_per_epoch=2"]
    options += ["trainer.max_epochs=1", "data.num_workers=0", "trainer.accelerator=cpu"]
    options += [f"run_dir={tmp_path / 'run'}", f"data.cache_dir={tmp_path / 'cache'}"]
    machines = '"trainer.devices=4", "+trainer.num_nodes=2"'
    for old, new in {
        '["experiment=softfeat_photos", "data.root=FOLDER", "run_dir=SHARED_FOLDER/run"]': options,
        machines: machines.replace("4", "2").replace("nodes=2", "nodes=1"),
        "num_workers=8, use_gpu=True": "num_workers=2",
    }.items():
        assert old in code
        code = code.replace(old, str(new))
    script = tmp_path / "train_in_ray.py"
    script.write_text(f'import ray\nray.init("local", num_cpus=4, include_dashboard=False)\n{code}')
    environment = os.environ | {"RAY_TRAIN_STORAGE": str(tmp_path), "HOME": str(tmp_path)}
    run = [sys.executable, str(script)]
    ended = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_features_of_another_network() -> None:
    page = ROOT / "docs" / "other_networks.md"
    namespace: dict[str, Any] = {"torch": torch}
    functions, imports = blocks(page.read_text("utf-8"), "python")
    exec(imports + functions, namespace)
    torch.manual_seed(0)
    backbone = nn.Conv2d(3, 12, 8, stride=8)
    rows = torch.arange(64)[:, None].expand(64, 64)
    batch = {
        "image": torch.rand(2, 3, 64, 64) / 10 + (rows >= 32) / 2,
        "label": (rows >= 32).long().expand(2, 64, 64),
        "superpixels": (rows // 8 * 8 + rows.T // 8).expand(2, 64, 64),
    }
    start = namespace["train_projection"](backbone, 12, [])
    trained = namespace["train_projection"](backbone, 12, [batch] * 20)
    assert trained.weight.shape == start.weight.shape == (128, 12, 1, 1)
    photo = batch["image"][0].permute(1, 2, 0).double().numpy()
    alphas = namespace["layers"](photo, backbone, trained)
    np.testing.assert_allclose(alphas.sum(0), 1, atol=1e-5)
    # No layer covers much of both halves.
    halves = alphas.reshape(len(alphas), 2, -1).mean(2)
    assert halves.min(1).max() < 0.1


def headings(document: Path) -> set[str]:
    """The anchors of a document."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text("utf-8")), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"\s+", "-", title) for title in plain}


@named(DOCUMENTS)
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text.replace("]\n(", "](")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), f"{link} is no file"
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in headings(target), f"{link} has no such heading"


@cache
def known_keys() -> tuple[frozenset[str], dict[str, set[str]]]:
    """Keys of all configurations, and the choices of each group."""
    conf = ROOT / "conf"
    groups: dict[str, set[str]] = {}
    for file in conf.rglob("*/*.yaml"):
        groups.setdefault(file.parent.relative_to(conf).as_posix(), set()).add(file.stem)
    suites = {file.stem for file in (ROOT / "benchmarks/conf/suite").glob("*.yaml")}
    keys: set[str] = set()

    def add(package: str, config: str, *overrides: str) -> None:
        with initialize_config_module(package, version_base="1.3"):
            cfg = compose(config, list(overrides))
        keys.update(flat(OmegaConf.to_container(cfg)))
        if "extractor" in cfg:  # the network gets all of it
            keys.update(
                f"model.extractor.{key}" for key in flat(OmegaConf.to_container(cfg.extractor))
            )

    for group, choices in groups.items():
        if group not in ("sets", "experiment"):
            for choice in choices - {"default"}:
                add("softfeat.conf", "train", f"{group}={choice}")
    add("softfeat.conf", "train", "experiment=hardseg_scenes")
    for file in conf.glob("*.yaml"):
        if file.stem != "train":
            add("softfeat.conf", file.stem)
    for suite in suites:
        add("benchmarks.conf", "benchmark", f"suite={suite}")
    parts = {file.stem for file in (ROOT / "faults/conf/part").glob("*.yaml")}
    for part in parts:
        add("faults.conf", "faults", f"part={part}")
    return frozenset(keys), groups | {"suite": suites, "part": parts}


def flat(node: Any, where: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{where}{key}"
            yield from flat(value, f"{where}{key}.")


FILES = (
    "py",
    "png",
    "json",
    "yaml",
    "csv",
    "md",
    "psd",
    "ora",
    "txt",
    "ckpt",
    "safetensors",
    "onnx",
)
OTHERS = ("solver", "balance", "hydra")  # arguments of functions, and Hydra's own
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def wrong_keys(texts: list[str]) -> list[str]:
    """Words of the form KEY, KEY=VALUE or GROUP=CHOICE that no configuration knows.

    +KEY=VALUE adds a key, so it may be unknown.
    """
    keys, groups = known_keys()
    mappings = {key.partition(".")[0] for key in keys if "." in key}
    wrong = []
    for word in (word for text in texts for word in text.split()):
        match = re.fullmatch(r"~?([a-z]\w*(?:[./]\w+)*)(=.*)?", word)
        if not match:
            continue
        key, value = match[1], (match[2] or "").lstrip("=")
        first = key.split(".")[0].split("/")[0]
        if first in OTHERS or key.rpartition(".")[2] in FILES or (match[2] is None and "/" in key):
            continue
        if key in groups and re.fullmatch(r"[a-z]\w*", value):
            if value not in groups[key] | {"null"}:
                wrong.append(word)
        elif match[2] is not None or (first in mappings and "." in key):
            # A part in capitals stands for any key.
            parts = (r"[^.]+" if part.isupper() else re.escape(part) for part in key.split("."))
            pattern = re.compile(r"\.".join(parts))
            if not any(pattern.fullmatch(known) for known in keys):
                wrong.append(word)
    return wrong


@named([*CURRENT, *NOTEBOOKS])
def test_every_key_exists(document: Path) -> None:
    assert wrong_keys(spans(document)) == []


def test_a_key_that_does_not_exist_is_found() -> None:
    right = ["data.superpixels.count=30", "loss=npair", "trainer.KEY=", "a=b c", "layers.psd"]
    assert wrong_keys(right[:3] + right[4:]) == []
    wrong = ["data.superpixels.number=30", "loss=mse", "model.colour", "colour=red"]
    assert wrong_keys(wrong) == wrong


@named([*CURRENT, *NOTEBOOKS])
def test_every_path_and_name_exists(document: Path) -> None:
    for span in spans(document):
        if re.fullmatch(
            r"(src|conf|docs|tests|benchmarks|faults|notebooks|weights)/[\w./-]+", span
        ):
            assert (ROOT / span).exists() or span.isupper() or "NAME" in span, span
        if re.fullmatch(r"softfeat(\.\w+)+", span):
            pkgutil.resolve_name(span)


def test_the_readme_is_short_and_says_how_to_start() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 200
    for words in ("make segment", "make test", "constraints.txt .", "softfeat segment photo.jpg"):
        assert words in text


def test_documents_with_tables_are_listed() -> None:
    with initialize_config_module("benchmarks.conf", version_base="1.3"):
        listed = set(compose("report").documents)
    marked = {
        str(d.relative_to(ROOT))
        for d in CURRENT
        if "\n<!-- end -->" in FENCE.sub("", d.read_text())
    }
    assert listed == marked


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_packages_import_what_the_table_allows() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    allowed = {
        name: set(re.findall(r"`(\w+)`", others))
        for name, others in re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    }
    package = ROOT / "src" / "softfeat"
    packages = {file.parent.name for file in package.glob("*/__init__.py")}
    assert packages <= set(allowed)
    wrong = []
    for file in package.rglob("*.py"):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            for top, other, *_ in (f"{name}..".split(".") for name in imports(file)):
                alien = top in ("benchmarks", "faults", "tests", "src")
                unlisted = top == "softfeat" and other in set(allowed) - allowed.get(room, set())
                if alien or (unlisted and other != room):
                    wrong.append(f"{file.relative_to(ROOT)} imports {top}.{other}")
    assert wrong == []


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "reference" / "ops.html").read_text("utf-8")
    assert "npair" in page
    assert 'src="http' not in page  # nothing is fetched from elsewhere

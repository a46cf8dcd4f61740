import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks.report import collect, collect_sweep, fill
from benchmarks.time_to_quality import compare
from softfeat.commands.train import train
from softfeat.models import checkpoints
from softfeat.models.checkpoints import write_weights
from softfeat.models.extractor import BottleneckExtractor
from softfeat.models.test_time_views import ONE_VIEW
from tests.helpers.paths import RESULTS, ROOT
from tests.helpers.sweeps import make_job, make_sweep
from tests.helpers.trainings import tiny_hard_run, tiny_run

SCORES = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")


def test_the_table_of_a_run_has_its_metrics(folder_root: Path, tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    metrics = train(tiny_run(folder_root, run, "name=tiny"))
    collect(run, results / "runs")
    readme = "before\n<!-- runs: tiny -->\nold\n<!-- end -->\nafter\n"
    filled = fill(readme, results)
    assert f"**{metrics['test/pair_auc']:.3f}**" in filled
    assert "old" not in filled
    assert filled.startswith("before\n<!-- runs: tiny -->")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert fill(filled, results) == filled


def test_a_sweep_is_stored_as_its_table(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "trials-1" / "first")
    make_job(folder / "0", count=50, error=f"no {tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"no job of .*trials.* has finished"):
        collect_sweep(tmp_path / "trials-1", tmp_path / "results" / "sweeps")
    for job, (count, auc) in enumerate(((100, 0.7), (250, 0.9)), start=1):
        make_job(folder / str(job), count=count, auc=auc)
        (folder / str(job) / "machine.json").write_text('{"device": "CPU"}')
    collect_sweep(tmp_path / "trials-1", tmp_path / "results" / "sweeps")
    filled = fill("<!-- sweep: trials-1 -->\n<!-- end -->\n", tmp_path / "results")
    _, header, _, best, worse, failed, *_, machine, _ = filled.splitlines()
    assert header.startswith("| job | data.count | val/auc |")
    assert best.startswith("| first/2 | 250 | 0.9 |")
    assert worse.startswith("| first/1 | 100 | 0.7 |")
    assert failed.endswith("| failed |")
    assert machine == "Measured on: device CPU."
    assert str(tmp_path) not in (tmp_path / "results" / "sweeps" / "trials-1.json").read_text()


def test_the_segmentation_table_joins_runs_probes_and_what_others_published(
    folder_root: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    soft, hard = tmp_path / "soft", tmp_path / "hard"
    train(tiny_run(folder_root, soft, "name=features"))
    checkpoint = soft / "checkpoints" / "best.ckpt"
    data = OmegaConf.load(soft / "config.yaml").data
    for name, image_size, score in (("test", [32, 32], 0.5), ("other", [64, 64], 0.9)):
        folder = soft / "evaluation" / name
        folder.mkdir(parents=True)
        about = {"checkpoint": str(checkpoint), "views": asdict(ONE_VIEW), "data": data.copy()}
        about["data"].image_size = image_size
        OmegaConf.save(about, folder / "evaluation.yaml")
        probe = {f"test/probe_{key}": score for key in SCORES}
        (folder / "metrics.json").write_text(json.dumps(probe))
    metrics = train(tiny_hard_run(folder_root, hard, soft, "name=tiny"))
    for run in (soft, hard):
        collect(run, results / "runs")
    assert str(tmp_path) not in (results / "runs" / "tiny.json").read_text()
    row = {"name": "SegNet", "source": "published", "miou": 55.6}
    (results / "published.json").write_text(json.dumps({"camvid": [row]}))
    readme = "<!-- segmentation: tiny features published:camvid -->\n<!-- end -->\n"
    _, _, _, first, second, third, *_ = fill(readme, results).splitlines()
    scores = " | ".join(f"{100 * metrics[f'test/{key}']:.2f}" for key in SCORES)
    assert first.startswith("| `tiny` | features | decoder | ")
    assert first.endswith(f" | {scores} |")
    assert second.endswith(" | 50.00 | 50.00 | 50.00 | 50.00 |")
    assert third == "| SegNet (published) | | | |  |  | 55.60 |  |"


def test_seeds_are_joined_and_classes_listed(tmp_path: Path) -> None:
    for number, miou in enumerate((0.5, 0.4, 0.6)):
        metrics = {f"test/{key}": miou for key in SCORES} | {"seconds/fit": 60.0 * number}
        metrics |= {"test/iou/sky": miou, "test/iou/road": 0.25}
        settings = {"features": "road", "head": "decoder", "end_to_end": False}
        content = {"settings": settings, "metrics": metrics, "machine": {"device": "CPU"}}
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"s{number}.json").write_text(json.dumps(content))
    filled = fill("<!-- segmentation: s0+s1+s2 -->\n<!-- end -->", tmp_path)
    assert "| `s0`, `s1`, `s2` | road | decoder | 1.0 | 50.00 (40.00 to 60.00) |" in filled
    filled = fill("<!-- classes: s0 s1 -->\n<!-- end -->", tmp_path)
    assert "| sky | 50.0 | 40.0 |" in filled
    assert "| road | 25.0 | 25.0 |" in filled


def test_weights_have_a_table_of_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    content = {"extractor": extractor.hparams, "state_dict": state}
    about = {"name": "hard", "features": {"name": "soft", "seed": 3}}
    digest = write_weights(tmp_path / "tiny.safetensors", content, about)
    filled = fill("<!-- weights: tiny -->\n<!-- end -->", tmp_path)
    for row in (f"| SHA-256 | `{digest}` |", "| name | `hard` |", "| features seed | `3` |"):
        assert row in filled


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics\.json"):
        collect(tmp_path, tmp_path / "results")


@pytest.mark.parametrize(
    ("document", "tables"),
    [("README.md", 1), ("docs/costs.md", 4), ("docs/features.md", 3), ("docs/results.md", 4)],
)
def test_documents_are_up_to_date(document: str, tables: int) -> None:
    """Every figure in the tables comes from a file in benchmarks/results."""
    text = (ROOT / document).read_text()
    assert fill(text, RESULTS) == text
    kinds = "<!-- (runs|losses|segmentation|ratios|benchmark): .+ -->"
    assert len(re.findall(kinds, text)) >= tables
    for path in (RESULTS / "runs").glob("*.json"):
        assert json.loads(path.read_text())["metrics"]["steps"] > 0


def test_the_table_of_ratios_names_each_benchmark(tmp_path: Path) -> None:
    ratios = {"time, a / b": {"median": 3.14, "min": 2.0, "max": 4.0}, "memory": {"median": 9.0}}
    content = {"ratios": ratios, "machine": {"device": "CPU"}}
    (tmp_path / "loss.json").write_text(json.dumps(content))
    filled = fill("<!-- ratios: loss -->\n<!-- end -->", tmp_path)
    assert "| `loss` | time, a / b | 3.1 | 2.0 | 4.0 |" in filled
    assert "| `loss` | memory | 9.0 |  |  |" in filled
    assert filled.endswith("Measured on: device CPU.\n<!-- end -->")
    ratios["quality"] = {"median": 2.0, "min": None, "max": 4.0}
    (tmp_path / "loss.json").write_text(json.dumps(content))
    filled = fill("<!-- ratios: loss -->\n<!-- end -->", tmp_path)
    assert "| `loss` | quality | 2.0 | not reached | 4.0 |" in filled


@pytest.mark.parametrize("path", sorted(RESULTS.glob("mattes_*.json")), ids=lambda path: path.stem)
def test_stored_quartiles_are_called_so(path: Path) -> None:
    for ratio in json.loads(path.read_text())["ratios"].values():
        assert set(ratio) == {"median", "q1", "q3"}


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("time_to_quality*.json")), ids=lambda path: path.stem
)
def test_stored_ratios_are_computed_from_their_runs(path: Path) -> None:
    content = json.loads(path.read_text())
    first, shorter, *others = content["runs"]
    seeds = range(content["settings"]["seeds"])
    rows, ratios = compare(content["runs"], seeds, first, shorter, others)
    assert content["ratios"] == ratios
    assert content["tables"]["Who is as good as the other at its end"] == rows

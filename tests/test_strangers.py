"""Nothing in a file from a stranger is run, leaves a secret, or writes outside of its directory.

Each attack would touch the file MARK, or write SECRET somewhere, if it succeeded.
"""

import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from softfeat.commands.data_config import data_config
from softfeat.commands.export import about
from softfeat.commands.train import train
from softfeat.data.layouts import DataError
from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.extractor import BottleneckExtractor, load_extractor
from softfeat.sweeps.jobs import Sweep
from softfeat.training.base import _rebase
from softfeat.training.hard_segmentation import HardSegmentationModule, load_hard_segmentation
from softfeat.training.run_config import (
    KNOWN,
    prepared_config,
    resumed_config,
    save_config,
)
from tests.helpers.commands import call_command
from tests.helpers.paths import CONF
from tests.helpers.trainings import tiny_run

SECRET = "the-secret-of-this-machine"
SPAWN = "setuptools._distutils.spawn.spawn"
SIZES = {"widths": [8, 16], "blocks": [1, 1], "dim": 8}


class Stranger:
    """A genuine run directory that a test changes, and the places that must stay untouched.

    Args:
        folder: Empty folder.
        config: Text of the run's configuration.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.run = folder / "run"
        self.mark = folder / "MARK"
        self.victim = folder / "victim"
        self.victim.mkdir()
        (self.victim / "precious.txt").write_text("precious")
        self.run.mkdir()
        self.config.write_text(config)
        self.config_text: dict[str, Any] = yaml.safe_load(config)
        module = BottleneckExtractor(**SIZES)  # type: ignore[arg-type]
        state = {f"extractor.{k}": v for k, v in module.state_dict().items()}
        self.content = {"extractor": module.hparams, "state_dict": state, "global_step": 3}
        for name in ("best", "last"):
            self.checkpoint(name).parent.mkdir(exist_ok=True)
            torch.save(self.content, self.checkpoint(name))

    @property
    def config(self) -> Path:
        return self.run / "config.yaml"

    def checkpoint(self, name: str = "best") -> Path:
        return self.run / "checkpoints" / f"{name}.ckpt"

    def touch(self, target: str = SPAWN) -> dict[str, Any]:
        """A configuration that would touch the mark."""
        return {"_target_": target, "cmd": ["touch", str(self.mark)]}

    def set(self, key: str, value: Any) -> None:
        """Sets a dotted key of the configuration file."""
        node = self.config_text
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
        self.config.write_text(yaml.safe_dump(self.config_text))

    def untouched(self) -> bool:
        names = [path.name for path in self.victim.rglob("*")]
        return not self.mark.exists() and names == ["precious.txt"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("genuine")
    save_config(tiny_run(folder / "photos", folder), folder / "config.yaml")
    return (folder / "config.yaml").read_text()


@pytest.fixture
def stranger(tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("SOFTFEAT_CACHE", str(tmp_path / "own cache"))
    return Stranger(tmp_path, config)


def readers(stranger: Stranger) -> dict[str, Callable[[], object]]:
    """What reads a run directory to instantiate it."""
    return {
        "resume": lambda: resumed_config(stranger.run, []),
        "prepared": lambda: prepared_config(stranger.run, ['prepared="x"']),
        "evaluate": lambda: data_config(OmegaConf.create({}), [], stranger.checkpoint()),
    }


def refused(stranger: Stranger, call: Callable[[], object], *words: str) -> str:
    """Checks that a call ends with an error of one kind that names the file and the remedy."""
    with pytest.raises(ValueError, match=re.escape(str(stranger.run))) as caught:
        call()
    message = str(caught.value)
    assert stranger.untouched()
    assert SECRET not in message
    for word in words:
        assert word in message, message
    return message


def test_the_run_is_accepted_as_it_is_and_the_attack_works(stranger: Stranger) -> None:
    """Otherwise the other tests would prove nothing."""
    for read in readers(stranger).values():
        read()
    assert about(stranger.checkpoint())["data.image_size"] == [32, 32]
    instantiate(stranger.touch())
    assert stranger.mark.exists()


def test_the_list_is_what_the_configuration_names() -> None:
    """The keys below `hydra` are not in the file of a run."""

    def targets(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(targets, node))
        if not isinstance(node, dict):
            return set()
        found = {node["_target_"]} if "_target_" in node else set()
        return found.union(*(targets(v) for k, v in node.items() if k != "hydra"))

    files = [OmegaConf.to_container(OmegaConf.load(path)) for path in CONF.rglob("*.yaml")]
    named = set().union(*map(targets, files))
    assert named <= KNOWN
    older = {"pytorch_lightning.callbacks.RichProgressBar"}
    assert all(name in named | older or name.startswith("torch.optim.") for name in KNOWN)
    assert all(callable(get_object(name)) for name in KNOWN)


TARGETS = [
    SPAWN,
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "functools.partial",
    "pathlib.Path.write_text",
    "joblib.load",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "numpy.load",
    "importlib.import_module",
    "webbrowser.open",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra.utils.get_class",
    "hydra.utils.get_object",
    # through what a module of the list imports, or is
    "softfeat.training.loggers.os.system",
    "softfeat.revision.subprocess.run",
    "softfeat.training.loggers.make_wandb_logger.__globals__",
    "softfeat.sweeps.jobs.train_apart",
    "torch.optim.sys.modules",
    "torch.optim.Optimizer.load_state_dict",
    "pytorch_lightning.Trainer.fit",
    # nearly a name of the list
    "torch.optim.AdamW ",
    " torch.optim.AdamW",
    "torch.optim.adamw.AdamW",
    "",
    None,
    3,
    ["torch.optim.AdamW"],
    {"_target_": SPAWN},
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_only_names_of_the_list_are_called(stranger: Stranger, target: Any) -> None:
    stranger.set("data", stranger.config_text["data"] | stranger.touch(target))
    for read in readers(stranger).values():
        refused(stranger, read, "config.yaml", "data._target_", "set the key yourself")


@pytest.mark.parametrize(
    "place",
    [
        "data.image_size",
        "data.superpixels",
        "data.augmentation.scale",
        "data.layout.layouts.camvid",
        "data.seed",
    ],
)
def test_no_place_of_the_data_is_forgotten(stranger: Stranger, place: str) -> None:
    stranger.set(place, stranger.touch())
    for read in readers(stranger).values():
        refused(stranger, read, f"{place}._target_", SPAWN)


@pytest.mark.parametrize(
    "place",
    [
        "extractor",
        "extractor.widths",
        "loss",
        "model.loss",
        "model.optimizer",
        "model.sample_pixels",
        "callbacks.another",
        "callbacks.finite.every_n_steps",
        "trainer.strategy",
        "trainer.profiler",
        "logger",
        "logger.settings",
        "search",
        "seed",
    ],
)
def test_no_place_of_a_training_is_forgotten(stranger: Stranger, place: str) -> None:
    stranger.set(place, stranger.touch())
    for name in ("resume", "prepared"):
        refused(stranger, readers(stranger)[name], f"{place}._target_", SPAWN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.plugins", [[stranger_target := {"_target_": SPAWN}]]),
        ("callbacks.last._args_", ["/victim"]),
        ("callbacks.last._recursive_", False),
        ("callbacks.last._mode_", "x"),
        ("model.optimizer", {**stranger_target, "_partial_": True}),
    ],
)
def test_special_keys_and_lists_are_checked(stranger: Stranger, key: str, value: Any) -> None:
    stranger.set(key, value)
    refused(stranger, readers(stranger)["resume"], key, "config.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "a ${oc.env:SECRET} b",
        "${run_dir}${oc.env:SECRET}",
        "${run_dir}/${oc.env:SECRET}",
        r"\\${oc.env:SECRET}",
        "${oc.decode:${oc.env:SECRET}}",
        "${oc.dict.values:data}",
        "${folder_name:${oc.env:SECRET}}",
        "${hydra:runtime.cwd}",
        "${${name}}",
        "${data}",
        "???",
    ],
)
@pytest.mark.parametrize("key", ["name", "data.root", "trainer.max_epochs"])
def test_no_interpolation_is_resolved_or_exported(stranger: Stranger, key: str, text: str) -> None:
    stranger.set(key, text)
    calls = [*readers(stranger).values(), lambda: about(stranger.checkpoint())]
    for call in calls:
        refused(stranger, call, f"config.yaml: {key}", "write the value there")


def test_an_escaped_interpolation_is_a_text(stranger: Stranger) -> None:
    stranger.set("name", r"\${oc.env:SECRET}")
    assert about(stranger.checkpoint())["name"] == "${oc.env:SECRET}"
    assert resumed_config(stranger.run, []).name == "${oc.env:SECRET}"


def test_a_configuration_does_not_choose_the_run_directory(stranger: Stranger) -> None:
    stranger.set("run_dir", str(stranger.victim))
    assert resumed_config(stranger.run, []).run_dir == str(stranger.run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks.last.dirpath", "/victim"),
        ("callbacks.last.dirpath", "victim"),
        ("callbacks.last.dirpath", "~/victim"),
        ("callbacks.last.dirpath", "${run_dir}/../victim"),
        ("callbacks.last.dirpath", "${run_dir}_victim"),
        ("callbacks.last.dirpath", "s3://bucket/victim"),
        ("callbacks.last.dirpath", ["victim"]),
        ("callbacks.last.filename", "../../victim/x"),
        ("callbacks.last.filename", "/victim/x"),
        ("callbacks.pictures.folder", "/victim"),
        ("trainer.default_root_dir", "/victim"),
    ],
)
def test_a_run_writes_in_its_directory_only(stranger: Stranger, key: str, value: Any) -> None:
    stranger.set(key, value)
    refused(stranger, readers(stranger)["resume"], f"config.yaml: {key}", "set the key yourself")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("save_dir", "/victim"),
        ("entity", "stranger"),
        ("settings", {"base_url": "https://stranger.example"}),
        ("dir", "/victim"),
        ("log_model", "all"),
        ("save_code", True),
    ],
)
def test_results_do_not_go_to_a_stranger(stranger: Stranger, key: str, value: Any) -> None:
    logger = {
        "_target_": "softfeat.training.loggers.make_wandb_logger",
        "save_dir": "${run_dir}",
        "project": "softfeat",
        "id": "abc",
        "mode": "offline",
    }
    stranger.set("logger", logger)
    resumed_config(stranger.run, [])
    stranger.set(f"logger.{key}", value)
    refused(stranger, readers(stranger)["resume"], f"logger.{key}", "config.yaml")


def test_the_user_may_choose_what_a_file_may_not(stranger: Stranger) -> None:
    stranger.set("callbacks.last.dirpath", "/elsewhere")
    stranger.set("loss._target_", "my.loss")
    options = ["callbacks.last.dirpath=/elsewhere", "++loss._target_=my.loss"]
    cfg = resumed_config(stranger.run, options)
    assert (cfg.callbacks.last.dirpath, cfg.loss._target_) == ("/elsewhere", "my.loss")
    refused(stranger, lambda: resumed_config(stranger.run, options[:1]), "loss._target_")


@pytest.mark.parametrize("key", ["cache_dir", "features_dir"])
def test_a_run_does_not_choose_the_cache(stranger: Stranger, key: str, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    (own / "superpixels").mkdir(parents=True)
    (stranger.run / "cache" / "packed").mkdir(parents=True)
    replaced = {"cache_dir": str(tmp_path / "own cache"), "features_dir": None}[key]
    for folder, expected in (
        (stranger.victim, replaced),
        (stranger.victim / "new", replaced),
        (stranger.run / "cache", replaced),  # a store that a stranger made
        (own, str(own)),
    ):
        stranger.set(f"data.{key}", str(folder))
        for cfg in (resumed_config(stranger.run, []).data, readers(stranger)["evaluate"]()):
            assert cfg[key] == expected  # type: ignore[index]
    assert stranger.untouched()


def test_scenes_are_made_in_the_users_cache(stranger: Stranger, tmp_path: Path) -> None:
    stranger.set("data.layout._target_", "softfeat.data.scenes.Scenes")
    stranger.set("data.root", str(stranger.victim))
    assert resumed_config(stranger.run, []).data.root == str(tmp_path / "own cache")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!python/object/apply:os.system ['touch MARK']", "tag"),
        ("a: !!python/object/apply:pathlib.Path [x]", "tag"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchor"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested"),
        ("".join(f"{' ' * n}a:\n" for n in range(200)), "nested"),
        ("a: " + "x" * 2**21, "bytes"),
        ("- a\n- b", "no keys"),
        ("a: b: c", "config.yaml"),
        ("a: 1\na: 2", "duplicate"),
        ("\x00", "config.yaml"),
    ],
    ids=lambda text: text[:20],
)
def test_a_malicious_yaml_is_one_clear_error(stranger: Stranger, text: str, reason: str) -> None:
    stranger.config.write_text(text)
    calls = [*readers(stranger).values(), lambda: about(stranger.checkpoint())]
    for call in calls:
        message = refused(stranger, call, "config.yaml is not a configuration", "Get the run again")
        assert reason in message


@pytest.mark.parametrize("name", ["metrics.csv", "pictures", "checkpoints/best.ckpt", "evaluation"])
def test_links_out_of_the_run_directory_are_refused(stranger: Stranger, name: str) -> None:
    link = stranger.run / name
    link.unlink(missing_ok=True)
    link.symlink_to(stranger.victim)
    for read in readers(stranger).values():
        refused(stranger, read, str(link), "replace the link")


def test_a_sweep_reports_without_resolving(stranger: Stranger) -> None:
    stranger.set("name", "${oc.env:SECRET}")
    (stranger.run.parent / "multirun.yaml").write_text("hydra: {overrides: {task: []}}")
    refused(stranger, lambda: Sweep(stranger.run.parent), "config.yaml: name")


class Payload:
    """Touches the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickled_checkpoint_runs_nothing(stranger: Stranger) -> None:
    torch.save(stranger.content | {"x": Payload(stranger.mark)}, stranger.checkpoint())
    for read in (read_checkpoint, load_extractor, load_hard_segmentation):
        refused(stranger, lambda read=read: read(stranger.checkpoint()), "best.ckpt")  # type: ignore[misc]


def test_a_resumed_checkpoint_deletes_nothing(stranger: Stranger) -> None:
    """Lightning deletes the files that a checkpoint names as its predecessors."""
    inside = stranger.checkpoint().parent
    victim = f"{inside}/../../victim"
    state = {
        "dirpath": str(inside),
        "best_model_path": f"local://{victim}",
        "kth_best_model_path": victim,
        "last_model_path": f"{inside}/..",
        "best_k_models": {victim: torch.tensor(1.0)},
    }
    _rebase(state, inside)
    paths = [state[f"{name}_model_path"] for name in ("best", "kth_best", "last")]
    assert all(
        not path or Path(path).parent == inside for path in [*paths, *state["best_k_models"]]
    )
    assert paths[2] == ""


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": [1, 10**9]},
        {"blocks": [1] * 10**4, "widths": [8] * 10**4},
        {"widths": [8, 10**6]},
        {"widths": [8, 10**30]},
        {"widths": [8, -1]},
        {"widths": [8, 16.0]},
        {"widths": [8, True]},
        {"widths": "8,16"},
        {"widths": 8},
        {"dim": 10**9},
        {"dim": 0},
        {"dim": [8]},
        {"level_norm": "0"},
        {"level_norm": float("nan")},
        {"readout_scale": float("inf")},
        {"network": ["bottleneck"]},
        {"network": "efficientnet_lite0"},
        {"weights": "/etc/passwd"},
    ],
    ids=lambda change: str(change)[:30],
)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_sizes_are_limited_by_the_weights(stranger: Stranger, change: dict, suffix: str) -> None:
    path = stranger.run / f"a.{suffix}"
    extractor = {**stranger.content["extractor"], **change}  # type: ignore[dict-item]
    if suffix == "ckpt":
        torch.save(stranger.content | {"extractor": extractor}, path)
    else:
        header = json.dumps({"extractor": extractor, "about": {}})
        save_file(stranger.content["state_dict"], path, {"softfeat": header})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Get the file again|choose the extractor="):
        load_extractor(path)


@pytest.mark.parametrize(
    "head",
    [
        {"num_classes": 10**6, "head": "linear"},
        {"num_classes": 0, "head": "linear"},
        {"num_classes": "3", "head": "linear"},
        {"num_classes": 3, "head": "os.system"},
        {"num_classes": 3, "head": "linear", "optimizer": "os.system"},
        {"num_classes": 200, "head": "linear"},
    ],
)
def test_heads_are_limited_too(stranger: Stranger, head: dict) -> None:
    extractor = BottleneckExtractor(**SIZES)  # type: ignore[arg-type]
    module = HardSegmentationModule(3, extractor, head="linear")
    names = [str(n) for n in range(min(300, int(head["num_classes"])))]
    content = {"extractor": extractor.hparams, "state_dict": module.state_dict()}
    torch.save(content | {"hard_segmentation": head, "class_names": names}, stranger.checkpoint())
    refused(stranger, lambda: load_hard_segmentation(stranger.checkpoint()), "best.ckpt")


def test_a_small_checkpoint_does_not_fill_the_memory(stranger: Stranger) -> None:
    state: Any = stranger.content["state_dict"]
    name = next(iter(state))
    for tensor in (
        torch.zeros(1).expand(10**6, 10**6),
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), [1.0], (10**6, 10**6)),
        torch.empty(10**6, 10**6, device="meta"),
        torch.zeros(3, dtype=torch.complex64),
        state[name] * float("nan"),
        {"a": 1},
    ):
        torch.save(stranger.content | {"state_dict": state | {name: tensor}}, stranger.checkpoint())
        refused(stranger, lambda: load_extractor(stranger.checkpoint()), "best.ckpt")
    torch.save(stranger.content, stranger.checkpoint())
    with zipfile.ZipFile(stranger.checkpoint()) as archive:
        entries = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(stranger.checkpoint(), "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content + bytes(10**6))
    refused(stranger, lambda: load_extractor(stranger.checkpoint()), "best.ckpt")


def raw_safetensors(
    path: Path, header: bytes, data: bytes = b"", length: int | None = None
) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},'
         b'"b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}', bytes(6)),
        (b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},'
         b'"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}', bytes(4)),
        (b'{"a":{"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,4]}}', bytes(4)),
        (b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,4]}}', bytes(4)),
        (b'{"a":{"dtype":"F16","shape":[-2],"data_offsets":[0,4]}}', bytes(4)),
        (b'{"__metadata__":{"softfeat":"no json"}}', b""),
        (b'{"__metadata__":{"softfeat":"[]"}}', b""),
        (b'{"__metadata__":{"softfeat":"' + b"[" * 10**5 + b'"}}', b""),
        (b'{"__metadata__":{"softfeat":5}}', b""),
        (b"[" * 10**5, b""),
        (b'{"__metadata__":{"softfeat":"' + b"x" * 2**22 + b'"}}', b""),
        (b"not json", b""),
        (b"", b""),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_crafted_header_is_one_clear_error(tmp_path: Path, header: bytes, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    raw_safetensors(path, header, data, len(header))
    with pytest.raises(ValueError, match=r"a\.safetensors is not a file written by .*again"):
        load_extractor(path)
    raw_safetensors(path, header, data, 2**63)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a file written by"):
        load_extractor(path)


@pytest.mark.parametrize(
    "change", [torch.int32, torch.float64, torch.uint8, torch.int64, float("nan"), float("inf")]
)
def test_weights_of_another_type_or_value_are_refused(stranger: Stranger, change: Any) -> None:
    state: Any = dict(stranger.content["state_dict"])  # type: ignore[call-overload]
    name = "extractor.stem.0.weight"
    state[name] = (
        state[name].to(change) if isinstance(change, torch.dtype) else state[name] + change
    )
    path = stranger.run / "a.safetensors"
    header = json.dumps({"extractor": stranger.content["extractor"], "about": {}})
    save_file(state, path, {"softfeat": header})
    with pytest.raises(ValueError, match=r"again"):
        load_extractor(path)


def test_a_description_of_weights_is_not_resolved(stranger: Stranger) -> None:
    path = stranger.run / "a.safetensors"
    for value in ("${oc.env:SECRET}", [32, "${oc.env:SECRET}"], stranger.touch(), 1.5):
        told = {"data.image_size": value}
        header = json.dumps({"extractor": stranger.content["extractor"], "about": told})
        save_file(stranger.content["state_dict"], path, {"softfeat": header})  # type: ignore[arg-type]
        given = OmegaConf.create({"_target_": "x"})
        refused(stranger, lambda: data_config(given, [], path), "data.image_size", "again")  # noqa: B023


def test_features_that_name_each_other_are_described_once(stranger: Stranger) -> None:
    stranger.set("model.features_checkpoint", str(stranger.run))
    assert about(stranger.checkpoint())["features"]["name"] == "softfeat_camvid"


def test_another_runs_checkpoint_is_not_built(stranger: Stranger) -> None:
    """The sizes of the configuration are compared with those in the checkpoint."""
    for key, value in (
        ("extractor.blocks", [1, 10**9]),
        ("extractor.widths", [8, 10**9]),
        ("extractor._target_", "softfeat.models.extractor.EfficientNetExtractor"),
    ):
        before = stranger.config_text["extractor"].copy()
        stranger.set(key, value)
        call = lambda: train(resumed_config(stranger.run, []), resume=True)  # noqa: E731
        refused(stranger, call, "config.yaml: extractor", "again")
        stranger.set("extractor", before)


def test_a_crafted_store_is_refused(tiny_data: Callable[..., Any], tmp_path: Path) -> None:
    """Stores are raw numbers: a pickle is never read, and ids that do not exist are an error."""
    data = tiny_data(pack=True)
    data.prepare_data()
    store = data.store("train")
    mark = tmp_path / "MARK"
    rows = store.path / "rows.u8"
    size = rows.stat().st_size
    checksums = store.path / "checksums.u64"
    np.save(tmp_path / "pickle.npy", np.array([Payload(mark)]), allow_pickle=True)
    rows.write_bytes((tmp_path / "pickle.npy").read_bytes())
    with pytest.raises(DataError, match=r"rows\.u8 .*Delete the folder"):
        data.store("train")[0]
    for byte in (0xC8, 0xFF):  # label 200, and superpixel 65535
        rows.write_bytes(bytes([byte]) * size)
        checksums.write_bytes(b"\0" * checksums.stat().st_size)  # 0: compared before
        with pytest.raises(DataError, match=r"rows\.u8 has ids that do not exist.*Delete"):
            data.store("train")[0]
    assert not mark.exists()


def test_the_commands_run_nothing(stranger: Stranger) -> None:
    stranger.set("data.image_size", stranger.touch())
    for module, option in (("evaluate", "checkpoint"), ("train", "resume")):
        result = call_command(module, f"{option}={stranger.run}")
        assert result.returncode == 1
        assert "config.yaml: data.image_size._target_" in result.stderr
        assert "Traceback" not in result.stderr
    assert stranger.untouched()

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf

from softfeat.commands.cli import readable_errors, refuse_empty_values


def failing(error: Exception) -> object:
    @readable_errors
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError, ImportError])
def test_user_errors_are_one_line(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        failing(kind("look here"))()  # type: ignore[operator]
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: look here\n"


def test_what_hydra_wraps_is_unwrapped(capsys: pytest.CaptureFixture[str]) -> None:
    error = InstantiationException("wrapped")
    error.__cause__ = ValueError("the cause")
    with pytest.raises(SystemExit):
        failing(error)()  # type: ignore[operator]
    assert capsys.readouterr().err == "error: the cause\n"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        failing(KeyError("x"))()  # type: ignore[operator]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="x"):
        failing(ValueError("x"))()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("a\nb"), "a"), (KeyError("a"), "KeyError: 'a'"), (ValueError(), "ValueError")],
)
def test_a_job_of_a_multirun_writes_its_error(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"hydra": {"mode": RunMode.MULTIRUN, "runtime": {"output_dir": str(tmp_path)}}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create(job))
    assert failing(error)() is None  # type: ignore[operator]
    lines = (tmp_path / "error.txt").read_text().splitlines()
    assert lines[0] == reason
    assert "Traceback (most recent call last):" in lines
    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())()  # type: ignore[operator,arg-type]


def test_importing_the_commands_changes_nothing_but_calling_quiet_does() -> None:
    code = """if 1:
        import logging, warnings
        before = list(warnings.filters)
        import pytorch_lightning, torch
        level = logging.getLogger("pytorch_lightning.utilities.rank_zero").level
        import softfeat.commands.cli as cli
        def ours():
            patterns = [f[1].pattern for f in warnings.filters if f[1]]
            return [p for p in patterns if "eval mode at the start" in p]
        assert not ours()
        assert logging.getLogger("pytorch_lightning.utilities.rank_zero").level == level
        cli.quiet()
        assert len(ours()) == 1
        assert logging.getLogger("pytorch_lightning.utilities.rank_zero").level == logging.WARNING
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("key", ["resume", "model.features_checkpoint", "data.sizes.0"])
def test_an_empty_value_is_an_error(key: str, value: str) -> None:
    cfg = OmegaConf.create(
        {"resume": None, "model": {"features_checkpoint": "${resume}"}, "data": {"sizes": [1]}}
    )
    refuse_empty_values(cfg)
    OmegaConf.update(cfg, key, value) if key != "data.sizes.0" else cfg.data.sizes.insert(0, value)
    with pytest.raises(ValueError, match=rf"{key}= is empty .*shell.*{key}=null"):
        refuse_empty_values(cfg)


@pytest.mark.parametrize(
    ("module", "options", "key"),
    [
        ("train", ["resume="], "resume"),
        ("train", ["prepared=''"], "prepared"),
        ("train", ["experiment=softfeat_photos", "extractor.weights="], "extractor.weights"),
        (
            "train",
            ["experiment=hardseg_camvid", "model.features_checkpoint="],
            "model.features_checkpoint",
        ),
        ("evaluate", ["checkpoint="], "checkpoint"),
        ("export", ["checkpoint=", "output=x.onnx"], "checkpoint"),
        ("segment", ["checkpoint=''"], "checkpoint"),
        ("figures", ["checkpoint=", "input=x", "output=y"], "checkpoint"),
        ("precompute", ["data=folder", "data.root="], "data.root"),
    ],
)
def test_every_command_refuses_an_empty_value(
    module: str,
    options: list[str],
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though the folder it runs in is a run directory, which an empty name would mean."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    command = importlib.import_module(f"softfeat.commands.{module}")
    main = getattr(command, "_main", command.main)
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose(module, overrides=options)
    with pytest.raises(SystemExit) as stopped:
        main(cfg)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {key}= is empty")

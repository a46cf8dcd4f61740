import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from softfeat.commands.cli import (
    command,
    explained,
    plain_text,
    readable_errors,
    refuse_empty_values,
)
from softfeat.interrupt import Interrupted


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
    with pytest.raises(SystemExit, match="130"):
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


@given(st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=("Cs",)), min_size=1))
def test_text_reaches_the_command_as_it_is(text: str) -> None:
    if text in ("null", "???") or text[0] in "'\"[{" or "${" in text:
        return
    (argument,) = plain_text([f"data.root={text}"], ["data.root"])
    value = OverridesParser.create().parse_override(argument).value()
    assert OmegaConf.create({"v": value}).v == text or value == text
    assert plain_text([argument], ["data.root"]) == [argument]  # processes of ddp do it again


@pytest.mark.parametrize("value", ["null", "'a b'", '"1e5"', "[a,b]", "${name}", "{a: 1}", ""])
def test_values_that_hydra_has_to_read_stay(value: str) -> None:
    assert plain_text([f"name={value}", "--cfg"], ["name"]) == [f"name={value}", "--cfg"]


def test_a_sweep_over_names_stays_a_sweep() -> None:
    assert plain_text(["-m", "name=a,b"], ["name"]) == ["-m", "name=a,b"]
    assert plain_text(["name=a,b"], ["name"]) == ["name='a,b'"]


def run(monkeypatch: pytest.MonkeyPatch, config: str, *arguments: str) -> DictConfig:
    """Runs a command that returns its configuration."""
    result: list[DictConfig] = []

    @command(config, text=("output", "checkpoint", "run_dir", "name"))
    def main(cfg: DictConfig) -> None:
        result.append(cfg)

    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    main()
    return result[0]


def test_names_that_look_like_numbers_are_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = run(monkeypatch, "export", "output=2024_06_01", "checkpoint=a=b, (1) #~é")
    assert (cfg.output, cfg.checkpoint) == ("2024_06_01", "a=b, (1) #~é")


@pytest.mark.parametrize(
    ("config", "argument", "message"),
    [
        ("train", "data.batchsize=4", "data.batchsize: .*did you mean data.batch_size?"),
        ("train", "batch_size=4", "did you mean data.batch_size?"),
        ("train", "expriment=softfeat_scenes", "did you mean experiment?"),
        ("train", "experiment=sofftfeat_scenes", "experiment=.*did you mean softfeat_scenes"),
        ("train", "data=foldr", "data=foldr: .*did you mean folder"),
        ("train", "trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("train", "~data.sed", "did you mean data.seed?"),
        ("train", "data.test_split=a=b", "two kinds of quotes.*'data.test_split=\"a=b\"'"),
        ("train", "data.image_size=64,64", r"'data.image_size=\[64,64\]' for a list"),
        ("train", "experiment", "experiment: write settings as key=value"),
        ("train", "run_dir=FILE", "FILE"),
        ("export", "level_nrm=1", "did you mean level_norm?"),
    ],
)
def test_what_hydra_cannot_compose_is_explained(
    config: str, argument: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, config, argument)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(f"error: .*{message}", error), error


@pytest.mark.parametrize(("signum", "status"), [(2, 130), (15, 143)])
def test_signals_end_without_a_traceback(
    signum: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        failing(Interrupted(signum, "do this"))()  # type: ignore[operator,arg-type]
    assert stopped.value.code == status
    assert capsys.readouterr().err.count("do this") == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"),
            "/dev/shm",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "memory is short",
        ),
        (RuntimeError("Too many open files. Communication with the workers"), "ulimit"),
        (OSError(24, "Too many open files", "x"), "ulimit|Too many"),
        (MemoryError(), "batch_size"),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\n"
                'Original Traceback (most recent call last):\n  File "x", line 1\n    f()\n'
                "ValueError: a.jpg is damaged\n"
            ),
            "^error: a.jpg is damaged$",
        ),
    ],
)
def test_errors_of_the_machine_and_of_workers_have_a_remedy(
    error: Exception, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        failing(error)()  # type: ignore[operator]
    assert re.search(remedy, capsys.readouterr().err.strip())
    assert explained(error)


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
) -> None:
    """Though the folder it runs in is a run directory, which an empty name would mean."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    command = importlib.import_module(f"softfeat.commands.{module}")
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose(module, overrides=options)
    with pytest.raises(ValueError, match=f"^{re.escape(key)}= is empty"):
        command.main.__wrapped__(cfg)

"""What the Hydra commands share: how they start, read their command line and report errors."""

import difflib
import errno
import functools
import logging
import os
import re
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from softfeat.atomic import replaced
from softfeat.interrupt import Interrupted, interruptible
from softfeat.names import printable
from softfeat.pipes import end_of_output

P = ParamSpec("P")
R = TypeVar("R")
_CONF = "softfeat.conf"
_FULL_ERROR = "HYDRA_FULL_ERROR"


def quiet() -> None:
    """Silences messages of Lightning that do not concern a user of the commands."""
    # Advertisements.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # a deprecation within Lightning's own code
        # Scores come from metrics that already add up over all processes.
        ".*when logging on epoch level in distributed setting.*",
        # A frozen extractor is meant to be in eval mode.
        ".*in eval mode at the start of training.*",
        # The data module leaves out what an interrupted epoch has trained on.
        ".*your dataloader is not resumable.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def register_resolvers() -> None:
    """Registers what the configuration files compute.

    `${first_set:a,b}` is the first value that is not null; `${folder_name:path}` the last part of a
    path.
    """
    OmegaConf.register_new_resolver(
        "first_set", lambda *values: next((v for v in values if v), None), replace=True
    )
    OmegaConf.register_new_resolver(
        "folder_name", lambda path: Path(path or "").name or "softfeat", replace=True
    )


def refuse_empty_values(cfg: DictConfig) -> None:
    """Checks that no value is an empty text, which is what an unset variable of a shell leaves.

    Args:
        cfg: Configuration of a command.

    Raises:
        ValueError: A value is empty; the message names its key.
    """

    def empty(node: Any, key: str) -> Iterator[str]:
        if isinstance(node, dict | list):
            for name, value in node.items() if isinstance(node, dict) else enumerate(node):
                yield from empty(value, f"{key}.{name}" if key else str(name))
        elif isinstance(node, str) and not node.strip():
            yield key

    settings = OmegaConf.to_container(cfg)
    assert isinstance(settings, dict)
    settings.pop("hydra", None)  # Hydra's own entries may be empty
    for key in empty(settings, ""):
        raise ValueError(
            f"{key}= is empty (is a variable of your shell unset?): give {key}=VALUE, "
            f"{key}=null for none, or leave it out"
        )


def in_multirun() -> bool:
    """Checks whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command(
    config: str, text: Collection[str] = ()
) -> Callable[[Callable[[DictConfig], R]], Callable[[], None]]:
    """Turns a function of the configuration into a command.

    The command composes the configuration from its command line and refuses empty values in it. It
    reports errors as in `readable_errors`, and ends without a traceback on Ctrl-C (exit status 130)
    and on SIGTERM (143).

    Args:
        config: Name of the configuration in `conf/`.
        text: Keys whose values are names or paths. They may hold any characters, see `plain_text`.
    """

    def decorate(task: Callable[[DictConfig], R]) -> Callable[[], None]:
        before = os.environ.get(_FULL_ERROR)

        @functools.wraps(task)
        def checked(cfg: DictConfig) -> R:
            refuse_empty_values(cfg)
            return task(cfg)

        @functools.wraps(task)
        def with_environment(cfg: DictConfig) -> R | None:
            restore_environment(before)
            register_resolvers()  # here, too: the process of a job does not call `main`
            quiet()
            return readable_errors(checked)(cfg)

        compose_and_run = hydra.main(f"pkg://{_CONF}", config, version_base="1.3")(with_environment)

        @functools.wraps(checked)
        @readable_errors
        def main() -> None:
            quiet()
            register_resolvers()
            allow_open_files()
            sys.argv[1:] = plain_text(sys.argv[1:], text)
            os.environ[_FULL_ERROR] = "1"  # Hydra raises errors instead of printing them
            try:
                with interruptible():
                    compose_and_run()
            except (CompactHydraException, OmegaConfBaseException, OSError) as error:
                restore_environment(before)
                raise ValueError(explained(error, config)) from error
            finally:
                restore_environment(before)

        return main

    return decorate


def allow_open_files() -> None:
    """Raises the number of files that may be open to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore_environment(full_error: str | None = None) -> None:
    """Sets `HYDRA_FULL_ERROR` to the user's value."""
    if full_error is None:
        os.environ.pop(_FULL_ERROR, None)
    else:
        os.environ[_FULL_ERROR] = full_error


def plain_text(arguments: Sequence[str], keys: Collection[str]) -> list[str]:
    """Quotes values of a command line that are text, so that Hydra takes them as they are.

    Hydra reads `2024_06_01` as a number and cannot read `=`, `#` or letters with accents. Values
    that are already quoted, lists, null and references such as `${name}` stay as they are; with
    `-m` also values with a comma, which list the values of a sweep.

    Args:
        arguments: Command line.
        keys: Keys whose values are names or paths.

    >>> plain_text(["run_dir=2024_06_01", "seed=1", "name=null"], ["run_dir", "name"])
    ["run_dir='2024_06_01'", 'seed=1', 'name=null']
    """
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)

    def quoted(argument: str) -> str:
        key, equals, value = argument.partition("=")
        as_it_is = not value or value in ("null", "???") or value[0] in "'\"[{" or "${" in value
        if key.lstrip("+") not in keys or not equals or as_it_is or (sweep and "," in value):
            return argument
        # A backslash escapes a quote, and backslashes in front of a quote.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
        trailing = len(escaped) - len(escaped.rstrip("\\"))
        return f"{key}='{escaped}{chr(92) * trailing}'"

    return [quoted(argument) for argument in arguments]


_USER_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    ImportError,
    CompactHydraException,
    OmegaConfBaseException,
)


def is_users_error(error: BaseException) -> bool:
    """Checks whether an error is one in the user's files or settings, or of the machine."""
    # Not imported for it: some commands do without Lightning.
    lightning = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)
    return isinstance(error, _USER_ERRORS) or lightning or bool(_machine_error(error))


def readable_errors(main: Callable[P, R]) -> Callable[P, R | None]:
    """Shows errors in the user's files and settings without a traceback; exit status 1.

    An interrupted command ends with exit status 130 or 143. With `HYDRA_FULL_ERROR=1` in the
    environment the traceback is shown. In a job of a multirun every error is written to `error.txt`
    in the job's directory, and the next job can start.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            result = main(*args, **kwargs)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            end_of_output()
        except Interrupted as error:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                sys.exit(0)  # ddp: the first process reports it
            print(error, file=sys.stderr)
            sys.exit(error.status)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            users_error = is_users_error(error)
            if not in_multirun() and (not users_error or os.environ.get(_FULL_ERROR)):
                raise
            message = explained(error) if users_error else f"{type(error).__name__}: {error}"
            print(printable(f"error: {message}", keep="\n"), file=sys.stderr)
            if not in_multirun():
                sys.exit(1)
            reason = message.strip().partition("\n")[0] or type(error).__name__
            file = Path(HydraConfig.get().runtime.output_dir) / "error.txt"
            with replaced(file) as partial:
                partial.write_text(f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8")
            return None

    return wrapped


def explained(error: BaseException, config: str | None = None) -> str:
    """Writes an error for the user: what is wrong with which key, and the remedy.

    Args:
        error: The error.
        config: Name of the configuration that could not be composed, whose keys are suggested.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        near = _near(choice, error.options)
        return f"{group}={choice}: there is no such choice{near}. Choices: " + ", ".join(
            error.options
        )
    if match := re.match(r"Ambiguous value for argument '(.*)'", text):
        key, _, value = match[1].partition("=")
        return (
            f"{match[1]}: a comma separates the values of a sweep (-m). Write '{key}=[{value}]' "
            f"for a list, or '{key}=\"{value}\"' for text with a comma"
        )
    if match := re.match(r"Could not (?:override|delete from config\.) '([^']*)'", text):
        return f"{match[1]}: there is no such setting{_near(match[1], list(_keys(config)))}"
    if isinstance(error, InstantiationException):
        return _not_made(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: set it with {error.full_key}=VALUE"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'settings'}: {text.partition(chr(10))[0]}"
    if remedy := _machine_error(error):
        return remedy
    if text.startswith("Caught ") and "Original Traceback" in text:  # raised in a worker process
        lines = text.rstrip().splitlines()
        start = next(n for n in range(len(lines) - 1, -1, -1) if lines[n].startswith("  ") or not n)
        return "\n".join(lines[start + 1 :]).partition(": ")[2] or lines[-1]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return text


def _unreadable(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument}: write settings as key=value"
    inner = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"{argument}: this value cannot be read. Put text with special characters into two kinds "
        f"of quotes, the outer ones for the shell: '{key}=\"{inner}\"'. A list is '{key}=[a,b]'"
    )


def _not_made(error: InstantiationException) -> str:
    """Explains why an object of the configuration could not be made."""
    cause = error.__cause__
    if isinstance(cause, InstantiationException):
        return _not_made(cause)
    match = re.search(r"full_key: (\S+)", str(error))
    where = match[1] if match else ""
    if cause is None:
        return f"{where or 'settings'}: {str(error).partition(chr(10))[0]}"
    if unknown := re.search(r"unexpected keyword argument '([^']*)'", str(cause)):
        return f"{where}.{unknown[1]}: there is no such setting".lstrip(".")
    if missing := re.search(r"missing .*argument.*?: (.*)", str(cause)):
        return f"{where}: set {missing[1]}"
    if isinstance(cause, ValueError | OSError | ImportError):
        return explained(cause)
    return f"{where or 'settings'}: {cause}"


def _keys(config: str | None) -> Iterator[str]:
    """All dotted keys of a configuration, and the groups of choices."""
    if config is None:
        return
    yield from (path.name for path in resources.files(_CONF).iterdir() if path.is_dir())
    GlobalHydra.instance().clear()
    with initialize_config_module(_CONF, version_base="1.3"):
        # With the group choices of the command line, as far as they exist.
        choices = [a for a in sys.argv[1:] if re.fullmatch(r"[a-z_/]+=[a-z0-9_]+", a)]
        try:
            cfg = compose(config, overrides=choices)
        except ConfigCompositionException:
            cfg = compose(config)
    yield from _dotted(OmegaConf.to_container(cfg), "")


def _dotted(node: Any, where: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{where}{key}"
        yield from _dotted(value, f"{where}{key}.")


def _near(name: str, known: Sequence[str]) -> str:
    """The part of a message that suggests the nearest known name, if one is near."""
    matches = difflib.get_close_matches(name, known, 1, 0.6)
    if not matches:  # the right key in another place, such as batch_size for data.batch_size
        last = name.rpartition(".")[2]
        ends = {each.rpartition(".")[2]: each for each in reversed(known)}
        matches = [ends[end] for end in difflib.get_close_matches(last, list(ends), 1, 0.75)]
    return f"; did you mean {matches[0]}?" if matches else ""


# What the machine lacks, by what torch says. The text is matched, because torch has no types.
_LACKS = {
    "shared memory|Bus error|/dev/shm|unable to mmap|No space left on device.*shm": (
        "the memory that worker processes share (/dev/shm) is full: set data.num_workers=0, or "
        "give the container more (docker run --shm-size=2g)"
    ),
    "Too many open files|received 0 items of ancdata": (
        "too many files are open: raise the limit with ulimit -n 4096, or set data.num_workers=0"
    ),
    r"DataLoader worker .*(killed by signal|exited unexpectedly)": (
        "a worker process was killed, often because memory is short: set data.num_workers and "
        "data.batch_size lower"
    ),
    "CUDA out of memory|can't allocate memory|Cannot allocate memory|out of memory": (
        "memory is too small: set data.batch_size or data.image_size smaller"
    ),
}


def _machine_error(error: BaseException) -> str | None:
    """Explains an error of the machine; None for any other error."""
    if isinstance(error, MemoryError):
        return _LACKS[
            "CUDA out of memory|can't allocate memory|Cannot allocate memory|out of memory"
        ]
    if not isinstance(error, RuntimeError | OSError):
        return None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free space. A training goes on with resume=RUN_DIR"
    text = f"{error} {error.__cause__ or ''}"
    return next((remedy for lack, remedy in _LACKS.items() if re.search(lack, text)), None)

"""Files of trained networks: checkpoints of runs, and weights to pass on. Reading executes nothing.

Weights are half precision in safetensors, with what rebuilds the network as JSON in the header. The
project's own lie in `weights/` and are known by their names; `SHA256SUMS` there says what they are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

WEIGHTS = Path(__file__).parents[2] / "weights"
SUMS = "SHA256SUMS"
_HEADER = "softfeat"
_KEPT = ("extractor.", "head.")  # of a state; the rest serves training alone
_REBUILDS = ("extractor", "hard_segmentation", "class_names")


def shipped() -> dict[str, Path]:
    """Files of the weights that come with the project, by name."""
    return {Path(name).stem: WEIGHTS / name for name in _sums(WEIGHTS)}


def _sums(folder: Path) -> dict[str, str]:
    """What a folder's SHA256SUMS says of each file, in sha256sum's format."""
    listing = folder / SUMS
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def checkpoint_file(checkpoint: str | Path) -> Path:
    """The file itself, that of shipped weights by their name, or the best of a run directory."""
    path = shipped().get(str(checkpoint), Path(checkpoint))
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Reads a network of either system to the CPU.

    Args:
        checkpoint: name of shipped weights, a file of weights, a file written by training, or a
            run directory. Nothing in it is executed: no pickle is read but with
            `weights_only=True`.

    Returns:
        extractor: what rebuilds it; state_dict, in float32; with a head also hard_segmentation and
        class_names; of weights also about, what they say of themselves.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of this project, or not the one that its folder's SHA256SUMS lists.
    """
    path = checkpoint_file(checkpoint)
    if not path.is_file():
        names = ", ".join(shipped())
        raise FileNotFoundError(
            f"no checkpoint at {path}: give the directory of a training run, a file of weights"
            + (f", or one of {names}" if names else "")
        )
    if path.suffix == ".safetensors":
        return _read_weights(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"extractor", "state_dict"} - content.keys()
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint written by python -m src.train: {error}"
        ) from error
    if missing:
        raise ValueError(f"{path} is not a checkpoint written by python -m src.train: no {missing}")
    return content


def _read_weights(path: Path) -> dict[str, Any]:
    expected = _sums(path.parent).get(path.name)
    if expected is not None and sha256(path) != expected:
        raise ValueError(
            f"{path} is not the file that {path.with_name(SUMS)} lists: it is damaged or was "
            "exchanged; get it anew (git checkout), or write it anew with python -m src.export"
        )
    try:
        with safe_open(path, "pt") as file:
            content: dict[str, Any] = dict(json.loads(file.metadata()[_HEADER]))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            content["extractor"]
    except Exception as error:
        raise ValueError(f"{path} is not a file of python -m src.export: {error}") from error
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    return {**content, "state_dict": state}


def write_weights(path: Path, content: dict[str, Any], about: dict[str, Any]) -> str:
    """Writes a network's weights in half precision, and enters them in SHA256SUMS beside them.

    Args:
        path: `<name>.safetensors`, replaced only once the new one is whole.
        content: as `read_checkpoint` gives it.
        about: what the weights say of themselves; plain values.

    Returns:
        The file's SHA-256.

    Raises:
        ValueError: a weight too large for half precision, or another suffix.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a file of weights ends in .safetensors")
    state = {}
    for name, tensor in content["state_dict"].items():
        if name.startswith(_KEPT) and not name.endswith("num_batches_tracked"):
            state[name] = tensor.half().contiguous() if tensor.is_floating_point() else tensor
            if not state[name].isfinite().all():
                raise ValueError(f"{name} does not fit half precision")
    plain = {key: content[key] for key in _REBUILDS if key in content}
    header = json.dumps({**plain, "about": about}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    save_file(state, partial, {_HEADER: header})
    digest = sha256(partial)
    sums = {**_sums(path.parent), path.name: digest}
    partial.replace(path)
    lines = [f"{value}  {name}\n" for name, value in sorted(sums.items())]
    (path.parent / SUMS).write_text("".join(lines), encoding="utf-8")
    return digest


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

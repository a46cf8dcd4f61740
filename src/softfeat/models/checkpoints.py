"""Files of trained networks: checkpoints of training runs, and exported weights.

Reading a file never executes code from it. Exported weights are safetensors files in half
precision, with the network's arguments as JSON in the header. The weights that come with the
project are in `weights/` and are loaded by name. `SHA256SUMS` there lists their hashes.
"""

import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from softfeat.atomic import replaced
from softfeat.locks import holding

WEIGHTS = Path(str(resources.files("softfeat.weights")))
SUMS = "SHA256SUMS"
_HEADER = "softfeat"
_EXPORTED = ("extractor.", "head.")  # prefixes of the state; the rest is for training only
_REBUILDS = ("extractor", "hard_segmentation", "class_names")
# Arguments that a file may contain, by the name of the network. See `Extractor.hparams`.
_EXTRACTOR = {
    "bottleneck": ("network", "widths", "blocks", "dim", "readout_scale", "level_norm"),
    "efficientnet_lite0": ("network", "level_channels", "top_down", "level_norm"),
}
_HEAD = ("num_classes", "head")
# Values of keys that older files lack
_OLDER = {"network": "bottleneck", "level_norm": 0.0}


def shipped() -> dict[str, Path]:
    """List the weights that come with the project.

    Returns:
        Files by name. They may be missing in a damaged checkout.
    """
    return {Path(name).stem: WEIGHTS / name for name in _sums(WEIGHTS)}


def _sums(folder: Path) -> dict[str, str]:
    """Read the hash of each file from the SHA256SUMS of a folder, in the formats of sha256sum.

    Raises:
        ValueError: If a line has another format.
    """
    listing = folder / SUMS
    sums = {}
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    for line in filter(str.strip, lines):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match is None:
            raise ValueError(f"{listing}: {line!r} is not a line of sha256sum; get the file again")
        sums[match[2]] = match[1].lower()
    return sums


def checkpoint_file(checkpoint: str | Path) -> Path:
    """Find the file of a checkpoint.

    Args:
        checkpoint: File, name of shipped weights, or run directory.

    Returns:
        The file itself, the file of the shipped weights, or the run's best checkpoint. The file may
        not exist.

    Raises:
        ValueError: If the name of shipped weights is also a path in the current directory.
    """
    path = Path(checkpoint)
    named = shipped().get(str(checkpoint))
    if named is not None and path.exists():
        raise ValueError(
            f"{path} is the name of shipped weights and also a path here: write ./{path} or {named}"
        )
    path = named or path
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def run_directory(checkpoint: Path) -> Path | None:
    """Find the run directory of a checkpoint.

    Args:
        checkpoint: File of a checkpoint.

    Returns:
        Directory with the run's `config.yaml`. None if the file is not in a run directory.
    """
    run = checkpoint.parent.parent
    inside = checkpoint.parent.name == "checkpoints" and checkpoint.suffix == ".ckpt"
    return run if inside and (run / "config.yaml").is_file() else None


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Read a trained network to the CPU.

    Code in the file is never executed. Pickles are read with `weights_only=True`.

    Args:
        checkpoint: Name of shipped weights, file of exported weights, checkpoint of a training, or
            run directory.

    Returns:
        Dictionary with `extractor`, the arguments of `build_extractor`, and `state_dict`, tensors
        in float32. With a head also `hard_segmentation`, the arguments of the head, and
        `class_names`. Exported weights also have `about`, the description that was exported.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of this project, or if its hash differs from the
            SHA256SUMS in its folder.
    """
    path = checkpoint_file(checkpoint)
    if not path.is_file():
        names = [name for name, file in shipped().items() if file.is_file()]
        lost = "" if names else f" ({WEIGHTS} is empty: run git checkout weights/)"
        raise FileNotFoundError(
            f"no checkpoint at {path}: give the directory of a training run, a file of weights, or "
            f"the name of shipped weights: {', '.join(names) or 'such as general'}{lost}"
        )
    if path.suffix == ".safetensors":
        return _read_weights(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"extractor", "state_dict"} - content.keys()
    except Exception as error:
        raise ValueError(
            f"{path} is neither a checkpoint of a training nor a .safetensors file of weights"
        ) from error
    if missing:
        raise ValueError(f"{path} is no checkpoint of a training of softfeat: no {missing}")
    content["extractor"] = _OLDER | content["extractor"]
    return content


def _read_weights(path: Path) -> dict[str, Any]:
    """Read a file of exported weights, see `read_checkpoint`."""
    expected = _sums(path.parent).get(path.name)
    if expected is not None and sha256(path) != expected:
        raise ValueError(
            f"{path} is not the file that {path.with_name(SUMS)} lists: it is damaged or was "
            "replaced. Get it again (git checkout), or export it again (python -m src.export)"
        )
    try:
        with safe_open(path, "pt") as file:
            header: Any = json.loads(file.metadata()[_HEADER])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # The header becomes arguments of constructors. The file may come from anyone, so only the
        # arguments that describe the shape of a network are accepted.
        extractor = _OLDER | header["extractor"]
        names = _EXTRACTOR[extractor["network"]]
        content: dict[str, Any] = {"extractor": _only(extractor, names)}
        if "hard_segmentation" in header:
            content["hard_segmentation"] = _only(header["hard_segmentation"], _HEAD)
            content["class_names"] = [str(name) for name in header["class_names"]]
        content["about"] = dict(header["about"])
    except Exception as error:
        raise ValueError(
            f"{path} is not a file written by python -m src.export: {error}"
        ) from error
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    return {**content, "state_dict": state}


def _only(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Check that a dictionary has exactly these keys."""
    if set(values) != set(names):
        raise ValueError(f"keys {sorted(values)} instead of {sorted(names)}")
    return dict(values)


def write_weights(path: Path, content: dict[str, Any], about: dict[str, Any]) -> str:
    """Write the weights of a network in half precision, and add their hash to SHA256SUMS.

    Args:
        path: File `<name>.safetensors`. An existing file is replaced after the new one is complete.
            SHA256SUMS is in the same folder.
        content: Network, as returned by `read_checkpoint`.
        about: Description of the weights, plain values.

    Returns:
        SHA-256 of the file, as hexadecimal digits.

    Raises:
        ValueError: If the file has another suffix, or if a weight is too large for half precision.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a file of weights must end in .safetensors")
    state = {}
    for name, tensor in content["state_dict"].items():
        if name.startswith(_EXPORTED) and not name.endswith("num_batches_tracked"):
            state[name] = tensor.half().contiguous() if tensor.is_floating_point() else tensor
            if not state[name].isfinite().all():
                raise ValueError(f"{name} does not fit half precision: the training has diverged")
    plain = {key: content[key] for key in _REBUILDS if key in content}
    header = json.dumps({**plain, "about": about}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = path.with_name(SUMS)
    lock = path.with_name(f".{SUMS}.lock")
    # Another process may add a file of its own at the same time.
    with holding(lock), replaced(listed) as listing, replaced(path) as partial:
        sums = _sums(path.parent)
        save_file(state, partial, {_HEADER: header})
        sums[path.name] = sha256(partial)
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        listing.write_text("".join(lines), encoding="utf-8")
    return sums[path.name]


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path: Any file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files of trained networks: checkpoints of runs, and weights to pass on. Reading executes nothing.

Weights are half precision in safetensors, with what rebuilds the network as JSON in the header. The
project's own lie in `weights/` and are known by their names; `SHA256SUMS` there says what they are.
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

WEIGHTS = Path(str(resources.files("softfeat.weights")))
SUMS = "SHA256SUMS"
_HEADER = "softfeat"
_KEPT = ("extractor.", "head.")  # of a state; the rest serves training alone
_REBUILDS = ("extractor", "hard_segmentation", "class_names")
# What a file may say of its network, by the network's name: see `Extractor.hparams`.
_EXTRACTOR = {
    "bottleneck": ("network", "widths", "blocks", "dim", "readout_scale", "level_norm"),
    "efficientnet_lite0": ("network", "level_channels", "top_down", "level_norm"),
}
_HEAD = ("num_classes", "head")
_OLDER = {"network": "bottleneck", "level_norm": 0.0}  # of files from before there were these keys


def shipped() -> dict[str, Path]:
    """Files of the weights that come with the project, by name."""
    return {Path(name).stem: WEIGHTS / name for name in _sums(WEIGHTS)}


def _sums(folder: Path) -> dict[str, str]:
    """What a folder's SHA256SUMS says of each file, in sha256sum's formats.

    Raises:
        ValueError: a line that is in neither.
    """
    listing, sums = folder / SUMS, {}
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    for line in filter(str.strip, lines):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match is None:
            raise ValueError(f"{listing}: {line!r} is no line of sha256sum; get the file anew")
        sums[match[2]] = match[1].lower()
    return sums


def checkpoint_file(checkpoint: str | Path) -> Path:
    """The file itself, that of shipped weights by their name, or the best of a run directory.

    Raises:
        ValueError: the name of shipped weights that is a path here, too.
    """
    path = Path(checkpoint)
    named = shipped().get(str(checkpoint))
    if named is not None and path.exists():
        raise ValueError(f"{path} is shipped weights and a path here: say ./{path}, or {named}")
    path = named or path
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def run_directory(checkpoint: Path) -> Path | None:
    """The directory of the run that wrote a checkpoint; None where the file lies elsewhere."""
    run = checkpoint.parent.parent
    inside = checkpoint.parent.name == "checkpoints" and checkpoint.suffix == ".ckpt"
    return run if inside and (run / "config.yaml").is_file() else None


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
        names = [name for name, file in shipped().items() if file.is_file()]
        lost = "" if names else f" (there are none in {WEIGHTS}: git checkout weights/)"
        raise FileNotFoundError(
            f"no checkpoint at {path}: give the directory of a training run, a file of weights, or "
            f"the name of shipped ones, {', '.join(names) or 'as general'}{lost}"
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
    content["extractor"] = _OLDER | content["extractor"]
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
            header: Any = json.loads(file.metadata()[_HEADER])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # A stranger's header becomes arguments: those of a network's shape, and no others.
        extractor = _OLDER | header["extractor"]
        names = _EXTRACTOR[extractor["network"]]
        content: dict[str, Any] = {"extractor": _only(extractor, names)}
        if "hard_segmentation" in header:
            content["hard_segmentation"] = _only(header["hard_segmentation"], _HEAD)
            content["class_names"] = [str(name) for name in header["class_names"]]
        content["about"] = dict(header["about"])
    except Exception as error:
        raise ValueError(f"{path} is not a file of python -m src.export: {error}") from error
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    return {**content, "state_dict": state}


def _only(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    if set(values) != set(names):
        raise ValueError(f"{sorted(values)} in place of {sorted(names)}")
    return dict(values)


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
    sums = _sums(path.parent)
    partial, listing = path.with_name(f"{path.name}.partial"), path.with_name(f"{SUMS}.partial")
    save_file(state, partial, {_HEADER: header})
    sums[path.name] = sha256(partial)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    listing.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    listing.replace(path.with_name(SUMS))
    return sums[path.name]


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files of trained networks: checkpoints of training runs, and exported weights.

Reading a file never executes code from it. Exported weights are safetensors files in half
precision, with the network's arguments as JSON in the header. The weights that come with the
project are in `weights/` and are loaded by name. `SHA256SUMS` there lists their hashes.
"""

import hashlib
import json
import math
import re
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from softfeat.atomic import replaced
from softfeat.locks import holding
from softfeat.ops.labels import CONTRAST

WEIGHTS = Path(str(resources.files("softfeat.weights")))
SUMS = "SHA256SUMS"
_HEADER = "softfeat"
_EXPORTED = (
    "extractor.",
    "head.",
    "clicks.",
)  # prefixes of the state; the rest is for training only
_REBUILDS = ("extractor", "hard_segmentation", "class_names", "clicks")
# Arguments that a file may contain, by the name of the network. See `Extractor.hparams`.
_EXTRACTOR = {
    "bottleneck": ("network", "widths", "blocks", "dim", "readout_scale", "level_norm"),
    "efficientnet_lite0": ("network", "level_channels", "top_down", "level_norm"),
}
_LISTS = ("widths", "blocks", "level_channels")
_HEAD = ("num_classes", "head")
_CLICKS = ("dim", "channels", "layers")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.int64)
_MOST_HEADER = 2**22  # bytes; the shipped weights have 50,000
_MOST_BLOCKS = 1000  # of a network, which is planned before its sizes are compared with the weights
_CLICKS_BESIDE_FEATURES = 6  # inputs of the click network for each superpixel
_MOST_CHANNELS = 2**20  # of a layer; more overflows the size of a tensor
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
        ValueError: If the name of shipped weights is also a path in the current directory, or if
            the name is empty.
    """
    if not str(checkpoint).strip():
        raise ValueError(
            "the name of the checkpoint is empty (is a variable of your shell unset?): give the "
            "directory of a training run, a file of weights, or the name of shipped weights"
        )
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
        in float32. With a click network also `clicks`, its arguments. With a head also
        `hard_segmentation`, the arguments of the head, and
        `class_names`. Exported weights also have `about`, the description that was exported. `file`
        is the path of the file.

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
    content = _read_weights(path) if path.suffix == ".safetensors" else _read_training(path)
    try:
        _check(content, path.stat().st_size)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        exported = path.suffix == ".safetensors"
        kind = "a file written by python -m src.export" if exported else "a usable checkpoint"
        raise ValueError(f"{path} is not {kind}: {error}. Get the file again") from error
    return content | {"file": str(path)}


def _read_training(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a training, see `read_checkpoint`."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compress. Otherwise a small file could fill the memory.
            if sum(each.file_size for each in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"extractor", "state_dict"} - content.keys()
    except Exception as error:
        raise ValueError(
            f"{path} is neither a checkpoint of a training nor a .safetensors file of weights"
        ) from error
    if missing:
        raise ValueError(f"{path} is no checkpoint of a training of softfeat: no {missing}")
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
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > _MOST_HEADER:
                raise ValueError(f"its header has more than {_MOST_HEADER} bytes")
        with safe_open(path, "pt") as file:
            header: Any = json.loads(file.metadata()[_HEADER])
            content: dict[str, Any] = {key: header[key] for key in _REBUILDS if key in header}
            content["about"] = dict(header["about"])
            content["extractor"] = dict(header["extractor"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(
            f"{path} is not a file written by python -m src.export: {error}. Get it again, or "
            "export it again"
        ) from error
    return {**content, "state_dict": state}


def _check(content: dict[str, Any], num_bytes: int) -> None:
    """Check what a file says of its network, before anything is built, and convert the weights.

    The file may come from anyone, and its values become arguments of constructors. So only those
    arguments are accepted that describe the shape of a network, with values that the weights in the
    file can have.

    Args:
        content: Content of the file. `extractor` and `state_dict` are replaced.
        num_bytes: Size of the file.

    Raises:
        ValueError: If the content is not that of a network.
    """
    state = content["state_dict"]
    for name, tensor in state.items():
        strided = type(tensor) is Tensor and tensor.layout == torch.strided
        usual = not name.startswith(_EXPORTED) or tensor.dtype in _DTYPES
        if not strided or tensor.device.type != "cpu" or not usual:
            raise ValueError(f"{_short(name)} is not a tensor of a usual type")
    # A tensor can repeat one number that is stored once.
    if sum(each.numel() * each.element_size() for each in state.values()) > num_bytes:
        raise ValueError("its tensors are larger than the file")
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in state.items():
        if name.startswith(_EXPORTED) and not tensor.isfinite().all():
            raise ValueError(f"{_short(name)} is not finite: the training has diverged")
    content["state_dict"] = state

    extractor = content["extractor"] = _OLDER | content["extractor"]
    arguments = _EXTRACTOR.get(extractor["network"]) if _text(extractor["network"]) else None
    if arguments is None:
        names = ", ".join(_EXTRACTOR)
        raise ValueError(f"network {_short(extractor['network'])}: this version has {names}")
    _only(extractor, arguments)
    for key, value in extractor.items():
        if key == "network" or (key == "readout_scale" and value is None):
            continue
        if key in ("level_norm", "readout_scale"):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{key} is not a number")
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        most = _MOST_BLOCKS if key == "blocks" else _MOST_CHANNELS
        if (
            isinstance(value, list | tuple) != (key in _LISTS)
            or not all(type(n) is int and (n > 0 or key == "top_down") for n in numbers)
            or len(numbers) > _MOST_BLOCKS
            or (sum(numbers) if key == "blocks" else max(numbers, default=0)) > most
            or min(numbers, default=0) < 0
        ):
            raise ValueError(f"{key} is not a size of a network that this version can build")
    if "clicks" in content:
        _only(content["clicks"], _CLICKS)
        dim, channels, layers = (content["clicks"][name] for name in _CLICKS)
        built = {name.split(".")[2] for name in state if name.startswith("clicks.layers.")}
        scores = state.get("clicks.score.weight")
        fits = all(type(size) is int and size > 0 for size in (dim, channels, layers))
        # The network is as large as these numbers say, and they may be a stranger's.
        if not fits or len(built) != layers or scores is None or scores.shape != (1, channels):
            raise ValueError("the weights of the click network do not have its sizes")
        if dim != len(state.get("clicks.photo.weight", scores)[0]) - _CLICKS_BESIDE_FEATURES:
            raise ValueError("the weights of the click network do not have its sizes")
    if "hard_segmentation" in content:
        head, names = content["hard_segmentation"], content["class_names"]
        _only(head, _HEAD)
        count = head["num_classes"]
        if head["head"] not in ("decoder", "linear"):
            raise ValueError("this version has no such head")
        if type(count) is not int or not 1 <= count <= CONTRAST:
            raise ValueError(f"num_classes is not 1 to {CONTRAST}")
        if (
            not isinstance(names, list)
            or not all(map(_text, names))
            or len(names) not in (0, count)
        ):
            raise ValueError("class_names does not name the classes")


def _text(value: object) -> bool:
    return isinstance(value, str)


def _short(name: object) -> str:
    return repr(name)[:80] if isinstance(name, str) else "a name"


def _only(values: dict[str, Any], names: tuple[str, ...]) -> None:
    """Check that a dictionary has exactly these keys."""
    if set(values) != set(names):
        keys = ", ".join(sorted(_short(key) for key in values))
        raise ValueError(f"it has the keys {keys[:300]} instead of {', '.join(sorted(names))}")


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

"""A checkpoint from an address or a file into a network: checked, read without running anything of it, and loaded."""

import hashlib
import logging
import pickle
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request

import safetensors.torch
import torch
from torch import Tensor, nn

from seggrid.config import ModelConfig
from seggrid.errors import UserError, one_line

# torch.hub.HASH_REGEX also takes the 50 of unet-50.pth for a checksum. This one wants 8 digits, and no date.
HASH = re.compile(r"-(?!20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\.)([0-9a-f]{8,64})\.\w+$")
ADDRESS = re.compile(r"\w+://[^?#]*/([^/?#]+)(?:[?#]|$)")
LIGHTNING = "model.network."  # module.SegmentationModule.model is a Segmenter, whose network is the library's
SHOWN = 3
log = logging.getLogger(__name__)


class Inert:
    """Stands in a checkpoint for what is no tensor: takes any arguments and any state, and keeps and does nothing."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> "Inert":
        """Drops the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


# What trainers save beside the tensors. None of it is ever looked up or called: an Inert is put in its place. The
# getattr is how a HistoryBuffer names its own methods.
HARMLESS = (
    *("argparse.Namespace", "pathlib.PosixPath", "datetime.datetime", "datetime.timedelta"),
    *("builtins.frozenset", "builtins.getattr", "builtins.slice"),
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.ConfigDict"),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


def download(address: str) -> Path:
    """Puts the checkpoint at ``address`` into torch.hub's cache, unless it is there, and checks it either way.

    Raises:
        UserError: it cannot be had, or its checksum is not the one in its name.
    """
    match = ADDRESS.match(address)
    name = match[1] if match else ".."
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if path.is_file():
        check_hash(path)
        return path
    try:
        if name in (".", ".."):
            raise ValueError("it is no address of a file")
        Request(address)  # refuses what is no address before download_url_to_file makes a file that it then leaves
        path.parent.mkdir(parents=True, exist_ok=True)
        found = HASH.search(name)
        torch.hub.download_url_to_file(address, str(path), found and found[1], progress=sys.stderr.isatty())
    except Exception as error:  # of the network, the disk and the server
        raise UserError(
            f"{address} cannot be downloaded ({_reason(error)}); download it elsewhere and say weights=<file>"
        ) from error
    return path


def check_hash(path: Path) -> None:
    """Compares a file with the checksum in its name, where there is one: ``-<8 or more digits of sha256>.pth``.

    Raises:
        UserError: they differ, or the file cannot be read.
    """
    expected = HASH.search(path.name)
    if expected is None:
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({_reason(error)})") from error
    if not digest.startswith(expected[1]):
        raise UserError(
            f"{path} is damaged or another file: its name says sha256 {expected[1]}, its content has "
            f"{digest[: len(expected[1])]}; delete it and get it again, or rename it if it is meant to differ"
        )


def read(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint onto the CPU. Nothing that the file holds is run.

    Any file goes through torch's own weights-only unpickler, which calls what rebuilds tensors and nothing else;
    what ``HARMLESS`` names becomes an ``Inert``. The state dict is ``state_dict`` or ``model`` in the file, or the
    file itself; of a Lightning checkpoint of ours it is the part that is the library's network.

    Returns:
        Name to tensor, as the network has them, without the ``module.`` of a parallel one.

    Raises:
        UserError: the file is no checkpoint, or holds code, or no tensor.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with _only_harmless(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error says it
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file breaks the reader anywhere
        fault = f"cannot be read as a checkpoint ({_reason(error)}); get it again"
        if code := _code(error):
            fault = f"is refused: it holds code ({code}), and nothing of it was run; say another file"
        raise UserError(f"{path} {fault}, or save its state dict alone with torch.save(model.state_dict())") from error
    tensors = _tensors(content)
    if not tensors:
        raise UserError(f"{path} holds no weights: no tensors in it, in its 'state_dict' or in its 'model'")
    return tensors


def load(
    network: nn.Module, state: dict[str, Tensor], source: str, num_classes: int, setting: str = "weights"
) -> list[str]:
    """Loads a state dict whole, except for the classifier of another number of classes, which keeps its start.

    A tensor is the classifier's where it differs from ours in one dimension alone, in which ours has one entry per
    class, or one more for "no object"; all such tensors have to differ by the same number of classes.

    Args:
        network: what gets the weights; its types, devices and ``requires_grad`` stay.
        state: as from ``read``.
        source: what the user said, for the message.
        num_classes: of the network.
        setting: the name of what the user said it with, likewise.

    Returns:
        The names of the classifier's tensors that were left as they were.

    Raises:
        UserError: the weights are for another model.
    """
    merged = network.state_dict()
    own = {key: value for key, value in merged.items() if isinstance(value, Tensor)}
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    more = {key: _more_classes(state[key].shape, own[key].shape, num_classes) for key in reshaped}
    kept = [key for key in reshaped if more[key]]
    if len({more[key] for key in kept}) > 1:
        kept = []
    faults = {
        "missing (first ": [key for key in own if key not in state and not _is_counter(key)],
        "unexpected (first ": [key for key in state if key not in own and not _is_counter(key)],
        "of another shape (": [
            f"{key}: file {tuple(state[key].shape)} here {tuple(own[key].shape)}" for key in reshaped if key not in kept
        ],
    }
    if any(faults.values()):
        found = [
            f"{len(items)} {fault}{', '.join(map(_plain, items[:SHOWN]))}{', ...' if len(items) > SHOWN else ''})"
            for fault, items in faults.items()
            if items
        ]
        raise UserError(f"{setting}={source} is for another model: {', '.join(found)}")
    merged.update({key: state[key] for key in own if key in state and key not in kept})
    try:
        network.load_state_dict(merged)
    except RuntimeError as error:
        raise UserError(f"{setting}={source} cannot be loaded ({_reason(error)})") from error
    return kept


def load_model(network: nn.Module, state: dict[str, Tensor], config: ModelConfig) -> None:
    """Loads the weights of a whole model, as ``load``, and says what starts anew.

    Raises:
        UserError: the weights are for another model; or ``config.all_weights``, and the classifier would start anew.
    """
    kept = load(network, state, str(config.weights), config.num_classes)
    if not kept:
        return
    there = config.num_classes + _more_classes(
        state[kept[0]].shape, network.state_dict()[kept[0]].shape, config.num_classes
    )
    if config.all_weights:
        raise UserError(
            f"weights={config.weights} is of a model with {there} classes, but the data set has {config.num_classes}: "
            "there is no classifier to measure; choose the data set that the weights were trained on"
        )
    names = ", ".join(kept)
    log.info("weights=%s: %s start anew: %d classes there, %d here", config.weights, names, there, config.num_classes)


@contextmanager
def _only_harmless() -> Iterator[None]:
    """Lets the weights-only unpickler take ``HARMLESS`` as ``Inert``, and nothing that a library has allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def _tensors(content: Any) -> dict[str, Tensor]:
    """Takes the state dict out of a checkpoint. An OrderedDict's or a tensor's own methods may be the file's."""
    outer = content if isinstance(content, dict) else {}
    inner = next((value for key in ("state_dict", "model") if isinstance(value := dict.get(outer, key), dict)), outer)
    tensors = {
        key: Tensor.detach(value)
        for key, value in dict.items(inner)
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    ours = {key.removeprefix(LIGHTNING): value for key, value in tensors.items() if key.startswith(LIGHTNING)}
    return ours or tensors


def _more_classes(there: torch.Size, here: torch.Size, num_classes: int) -> int:
    """Returns how many more classes ``there`` has than ``here``, 0 where they differ in anything else."""
    pairs = [(a, b) for a, b in zip(there, here, strict=False) if a != b]
    if len(there) != len(here) or len(pairs) != 1 or pairs[0][1] not in (num_classes, num_classes + 1):
        return 0
    return pairs[0][0] - pairs[0][1]


def _is_counter(key: str) -> bool:
    """A batch norm's counter, which old checkpoints lack and no evaluation uses."""
    return key.rpartition(".")[2] == "num_batches_tracked"


def _code(error: Exception) -> str:
    """Returns the name of the code for which the unpickler refused a file, "" where that was not why."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    name = re.search(r"GLOBAL (\S+)", str(error))
    hidden = "call reduce for" in str(error) or "Can only create new object" in str(error)
    return _plain(name[1]) if name else "a hidden call" if hidden else ""


def _reason(error: Exception) -> str:
    """Returns what went wrong, without the advice to load the file as code that torch surrounds it with."""
    text = one_line(error).rpartition("WeightsUnpickler error:")[2]
    return f"{type(error).__name__}: {_plain(re.split('Check the documentation|Re-running', text)[0])}"


def _plain(text: str) -> str:
    """Returns text, which may come from a file, short and without what would steer a terminal."""
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return textwrap.shorten(printable, 160, placeholder=" ...")

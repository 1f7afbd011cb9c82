"""What SMP's users have saved: a folder of ``save_pretrained``, here or on the hub, or a file of weights."""

import inspect
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from seggrid.config import ModelConfig
from seggrid.errors import UserError, one_line
from seggrid.models import weights

DESCRIPTION = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
log = logging.getLogger("seggrid")


@dataclass(frozen=True)
class Saved:
    """A folder of SMP's ``save_pretrained``.

    Attributes:
        arch: the architecture's name.
        encoder: the encoder's name.
        encoder_source: the weights that the encoder started from, in SMP's words.
        options: the arguments of the architecture's class.
        file: the weights; None where a checkpoint holds them.
    """

    arch: str
    encoder: str
    encoder_source: Any
    options: dict[str, Any]
    file: Path | None

    def as_plain(self) -> dict[str, Any]:
        """Returns all but the file."""
        return {key: value for key, value in vars(self).items() if key != "file"}

    def encoder_options(self, model: type) -> dict[str, Any]:
        """Returns those of the arguments that ``model`` hands on to its encoder."""
        own = inspect.signature(model.__init__).parameters  # type: ignore[misc]  # the class, not an instance
        return {key: value for key, value in self.options.items() if key not in own}


def find(config: ModelConfig) -> Saved | None:
    """Returns the saved model that ``weights`` names, None where it names a file or nothing.

    Raises:
        UserError: it is not there, is damaged, or holds another arch or encoder than the cell's.
    """
    source = config.weights
    if config.restored is not None:
        return Saved(**config.restored, file=None)
    if source is None or not config.with_weights:
        return None
    if Path(source).is_file():
        if config.arch.name == "official":
            raise UserError(
                f"weights={source} is a file, which does not say what model it is for: name arch and encoder, or say "
                "the folder that SMP's save_pretrained made"
            )
        return None
    saved = _read(_folder(source), source)
    held = f"arch={saved.arch} encoder={saved.encoder}"
    wanted = f"arch={config.arch.name} encoder={config.encoder.name}"
    if config.arch.name != "official" and (saved.arch, _untagged(saved.encoder)) != (
        config.arch.name,
        _untagged(config.encoder.name),
    ):
        raise UserError(f"weights={source} holds {held}, not {wanted}; say that, or arch=official to take it as it is")
    return saved


def file_of(source: str) -> Path:
    """Returns the file that ``weights`` names, once its content has been compared with the checksum in its name."""
    path = Path(source)
    weights.check_hash(path)
    return path


def load(network: nn.Module, path: Path, config: ModelConfig) -> None:
    """Loads a file of weights whole; a head that classifies images, which SMP can add, is left out.

    Raises:
        UserError: the file is damaged, or for another model.
    """
    everything = weights.read(path)
    state = {key: value for key, value in everything.items() if not key.startswith("classification_head.")}
    weights.load_model(network, state, config)


def _folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if not HUB_ID.fullmatch(source) or source.endswith(SUFFIXES):
        raise UserError(
            f"weights={source} is no file, no folder and no id on the hub; say weights=<file>, or the folder or hub id "
            "<user>/<name> of SMP's save_pretrained"
        )
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=[DESCRIPTION, *FILES]))
    except Exception as error:  # of the network, the disk and the hub: which one depends on the client's version
        reason = f"{type(error).__name__}: {one_line(error)[:160]}"
        raise UserError(
            f"weights={source} cannot be had from the hub ({reason}); download it elsewhere and say weights=<folder>"
        ) from error


def _read(folder: Path, source: str) -> Saved:
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text())
        name, encoder = content["_model_class"], content["encoder_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"weights={source}: {path} is no description of an SMP model ({type(error).__name__}: "
            f"{one_line(error)[:160]}); get it again, or save the model with model.save_pretrained(<folder>)"
        ) from error
    arch = str(name).lower()
    if arch not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise UserError(f"weights={source} holds a {name}, which SMP {smp.__version__} does not have")
    if not isinstance(encoder, str) or not (encoder.startswith("tu-") or encoder in encoders):
        raise UserError(f"weights={source} has the encoder {encoder}, which SMP {smp.__version__} does not have")
    if content.get("in_channels", 3) != 3:
        raise UserError(f"weights={source} takes images of {content['in_channels']} channels; all here have 3")
    file = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if file is None:
        raise UserError(f"weights={source} has no weights: neither {' nor '.join(FILES)} is in {folder}")
    options = {key: value for key, value in content.items() if not key.startswith("_")}
    own_name = encoder.removeprefix("tu-") if encoder.startswith("tu-") else f"smp/{encoder}"
    return Saved(arch, own_name, content.get("encoder_weights"), options, file)


def _untagged(encoder: str) -> str:
    """Returns an encoder's name without the tag of its weights, which the saved ones replace."""
    return encoder if "/" in encoder else encoder.partition(".")[0]

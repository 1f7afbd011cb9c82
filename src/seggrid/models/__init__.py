"""Models of three libraries behind one interface; each file here is the only one that names its library."""

from importlib import import_module

from seggrid.config import ModelConfig
from seggrid.models.reach import drop_unreached, find_padding
from seggrid.models.segmenter import Facts, Segmenter, SegOutput

__all__ = ["Facts", "SegOutput", "Segmenter", "build"]


def build(config: ModelConfig) -> Segmenter:
    """Builds the model of a cell.

    Only the chosen backend is imported.

    Args:
        config: backend, arch, encoder and number of classes.

    Returns:
        The model, on the CPU, in training mode. Parameters that no gradient can reach do not require one.

    Raises:
        UserError: the encoder or its weights cannot be had.
        ImpossibleCellError: the library cannot build this cell.
    """
    adapter = import_module(f"seggrid.models.{config.backend.name}")
    segmenter: Segmenter = adapter.build(config)
    find_padding(segmenter.train())
    drop_unreached(segmenter)
    return segmenter

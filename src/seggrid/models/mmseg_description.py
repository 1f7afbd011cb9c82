"""A configuration of MMSegmentation as nested dicts, changed into that of a cell. Nothing here imports it."""

from collections.abc import Iterator
from typing import Any

from seggrid.config import ModelConfig
from seggrid.errors import UserError


def plain(value: Any) -> Any:
    """Replaces SyncBN, which runs on GPUs only: ``trainer.sync_batchnorm`` brings it back where there are several."""
    if isinstance(value, dict):
        parts = {key: plain(item) for key, item in value.items() if key != "data_preprocessor"}
        return {**parts, "type": "BN"} if parts.get("type") == "SyncBN" else parts
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns ``base`` with ``changes``, part by part; ``_delete_: true`` drops what the part had before."""
    result = {} if changes.get("_delete_") else dict(base)
    for key, value in changes.items():
        if key == "_delete_":
            continue
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return result


def set_classes(model: dict[str, Any], config: ModelConfig) -> None:
    """Gives a configuration, in place, the data set's number of classes wherever it has its own."""
    heads = model["decode_head"]
    old, new = next(_values(heads[-1] if isinstance(heads, list) else heads, "num_classes"), None), config.num_classes
    if old is None:
        raise UserError(f"arch.config={config.arch.config} segments nothing: it has no classes")

    def replace(value: Any) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                replace(item)
        if not isinstance(value, dict):
            return
        if value.get("num_classes") == old:
            value["num_classes"] = new
        balance = value.get("class_weight")
        if isinstance(balance, list) and new != old:
            if len(balance) == old + 1 and len(set(balance[:-1])) == 1:  # and one for "no object"
                value["class_weight"] = [balance[0]] * new + balance[-1:]
            else:
                value["class_weight"] = None
        for child in value.values():
            replace(child)

    replace([heads, model.get("auxiliary_head")])
    if "text_encoder" in model:  # of an open-vocabulary method
        names = config.classes or [f"class {index}" for index in range(new)]
        model["text_encoder"] |= {"dataset_name": None, "vocabulary": names, "cat_bg": True}


def _values(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, key)


def set_channels(value: Any, channels: list[int]) -> None:
    """Tells every head, in place, the channels of the feature maps that it reads."""
    if isinstance(value, list | tuple):
        for item in value:
            set_channels(item, channels)
    if not isinstance(value, dict):
        return
    index, known = value.get("in_index", -1), value.get("in_channels")
    if known is not None and ("num_classes" in value or "in_index" in value):
        if isinstance(index, list | tuple):
            value["in_channels"] = [channels[item] for item in index]
        else:
            value["in_channels"] = list(channels) if isinstance(known, list | tuple) else channels[index]
    set_channels(value.get("kernel_generate_head"), channels)  # K-Net's head around a head

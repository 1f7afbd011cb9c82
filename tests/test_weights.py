"""Checkpoints: from where, whether anything of them is run, and into which network."""

import argparse
import builtins
import datetime
import hashlib
import os
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors.torch import save_file
from torch import Tensor, nn

from seggrid.errors import UserError
from seggrid.models import weights

ZIP, LEGACY = True, False
BOTH = pytest.mark.parametrize("zipped", [ZIP, LEGACY], ids=["zip", "legacy"])


def _save(path: Path, content: Any, zipped: bool = ZIP, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def _message(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert message.isprintable(), message  # one line, and nothing that steers a terminal
    return message


class Net(nn.Module):
    def __init__(self, classes: int = 3, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, classes, 1)
        self.query = nn.Linear(width, classes + 1)
        self.register_buffer("class_weight", torch.arange(classes + 1.0))


# --- nothing of a file is run


class Call:
    """Pickles as a call, of anything and at any depth, which unpickling would make."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


def _by_getattr(mark: str) -> Call:
    """From a function that rebuilds tensors, whose name is allowed, to os.system, with getattr alone."""
    names = Call(getattr, torch._utils._rebuild_tensor_v2, "__globals__")
    module = Call(Call(getattr, names, "get"), "torch")
    return Call(Call(getattr, Call(getattr, module, "os"), "system"), f"touch {mark}")


ATTACKS: dict[str, tuple[Callable[[str], Any], str]] = {
    "system": (lambda mark: Call(os.system, f"touch {mark}"), "posix.system"),
    "open": (lambda mark: Call(open, mark, "w"), "open"),
    "eval": (lambda mark: Call(eval, f"open({mark!r}, 'w')"), "eval"),
    "exec": (lambda mark: Call(exec, f"open({mark!r}, 'w')"), "exec"),
    "import": (lambda mark: Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {mark}"), "__import__"),
    "touch": (lambda mark: Call(pathlib.Path.touch, Call(pathlib.PosixPath, mark)), "pathlib.Path"),
    "getattr": (_by_getattr, "a hidden call"),
    "numpy": (lambda mark: Call(np.savetxt, mark, [1]), "numpy.savetxt"),
    "runstring": (lambda mark: Call(np.testing.runstring, f"open({mark!r}, 'w')", {}), "runstring"),
    "torch": (lambda mark: Call(torch.save, 1, mark), "torch.serialization.save"),
}
PLACES: dict[str, Callable[[Any, Tensor], Any]] = {
    "beside": lambda attack, weight: {"state_dict": {"weight": weight}, "meta": {"hooks": [attack]}},
    "within": lambda attack, weight: {"state_dict": OrderedDict(weight=weight, extra=attack)},
    "array": lambda attack, weight: {"weight": weight, "log": np.array([attack, None], dtype=object)},
    "buffer": lambda attack, weight: {"weight": weight, "log": Call(HistoryBuffer, attack)},
}


@BOTH
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, attack: str, place: str, zipped: bool) -> None:
    mark = tmp_path / "ran"
    build, named = ATTACKS[attack]
    path = _save(tmp_path / "evil.pth", PLACES[place](build(str(mark)), torch.ones(2)), zipped)
    message = _message(weights.read, path)
    assert not mark.exists()
    assert message.startswith(f"{path} is refused: it holds code (")
    assert f"{named})" in message
    assert "nothing of it was run" in message


@pytest.mark.parametrize("attack", ATTACKS)
def test_these_attacks_do_run_where_code_is_run(tmp_path: Path, attack: str) -> None:
    mark = tmp_path / "ran"
    path = _save(tmp_path / "evil.pth", {"meta": ATTACKS[attack][0](str(mark))})
    torch.load(path, weights_only=False)
    assert mark.exists()


@BOTH
@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_no_protocol_of_pickle_runs_code(tmp_path: Path, protocol: int, zipped: bool) -> None:
    mark = tmp_path / "ran"
    content = {"weight": torch.ones(2), "meta": _by_getattr(str(mark)), "more": Call(os.system, f"touch {mark}")}
    path = _save(tmp_path / "evil.pth", content, zipped, pickle_protocol=protocol)
    _message(weights.read, path)
    assert not mark.exists()


OPCODES = {
    "INST": b"(S'touch MARK'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch MARK'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + b"LEN" + b"touch MARK\x85R.",
    "EXT1": b"\x80\x02\x82\x01X" + b"LEN4" + b"touch MARK\x85R.",
}


@pytest.mark.parametrize("opcode", OPCODES)
def test_no_opcode_runs_code(tmp_path: Path, opcode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import copyreg

    mark = tmp_path / "ran"
    command = f"touch {mark}".encode()
    data = OPCODES[opcode].replace(b"touch MARK", command)
    data = data.replace(b"LEN4", struct.pack("<I", len(command))).replace(b"LEN", bytes([len(command)]))
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    pickle.loads(data)
    assert mark.exists()  # it is an attack
    mark.unlink()
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(_save(tmp_path / "good.pth", {"a": torch.ones(1)})) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            inner = name.replace("good/", "evil/")
            bad.writestr(inner, data if name.endswith("data.pkl") else good.read(name))
    _message(weights.read, path)
    assert not mark.exists()
    path.write_bytes(data)
    _message(weights.read, path)
    assert not mark.exists()


def test_neither_the_environment_nor_a_library_can_let_code_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    path = _save(tmp_path / "evil.pth", {"meta": Call(open, str(mark), "w")})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    allowed = (builtins.open, "_io.open"), (builtins.open, "io.open"), (builtins.open, "builtins.open")
    with torch.serialization.safe_globals(list(allowed)):
        before = set(torch.serialization.get_safe_globals())
        torch.load(path, weights_only=True)
        assert mark.exists()
        mark.unlink()
        _message(weights.read, path)
        assert set(torch.serialization.get_safe_globals()) == before  # the library still has its own, and no more
    assert not mark.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(Doubled(), torch.ones(1)), str(path))
    assert "TorchScript" in _message(weights.read, path)


def test_a_whole_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.pth", nn.Conv2d(1, 1, 1))
    message = _message(weights.read, path)
    assert "torch.nn.modules.conv.Conv2d" in message
    assert "save its state dict alone" in message


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(b"\x80\x02c\x1b[2Jos\nsys\rtem\n.")
    _message(weights.read, path)
    _save(path, {"we\x1b[2Jight\nHello": torch.ones(1)})
    assert "unexpected (first we?[2Jight?Hello)" in _message(weights.load, Net(), weights.read(path), "x", 3)


def test_a_tensor_cannot_bring_methods_of_its_own(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.detach = parameter.to = 1  # type: ignore[assignment]
    parameter.register_hook(print)

    class State:
        def __reduce__(self) -> tuple[Any, ...]:
            return OrderedDict, (), {"items": 1, "get": 1}, None, iter([("weight", parameter)])

    path = _save(tmp_path / "a.pth", State())
    assert torch.load(path, weights_only=True).items == 1
    read = weights.read(path)
    assert type(read["weight"]) is Tensor
    assert read["weight"].shape == (2,)
    assert vars(read["weight"]) == {}


# --- what is read


def _assert_same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert type(read[key]) is Tensor
        assert not read[key].requires_grad
        assert read[key].dtype == value.dtype
        assert read[key].stride() == value.stride()
        assert torch.equal(read[key], value.detach()), key


def _tensors() -> dict[str, Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "base": base,
        "row": base[1],
        "column": base[:, 2],
        "transposed": base.T,
        "expanded": torch.ones(1).expand(3),
        "bf16": torch.randn(3).bfloat16(),
        "half": torch.randn(3).half(),
        "int64": torch.tensor([2**40, -1]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 2),
        "parameter": nn.Parameter(torch.randn(2)),
    }


def _mmengine(state: dict[str, Tensor]) -> dict[str, Any]:
    """What mmengine's CheckpointHook saves, and what other trainers leave beside the tensors."""
    buffer = HistoryBuffer()
    buffer.update(1.5)
    buffer.update(2, count=3)
    return {
        "meta": {"seed": np.int64(3), "lr": np.float64(0.1), "name": np.str_("x"), "time": datetime.datetime.now()},
        "message_hub": {"log_scalars": OrderedDict(loss=buffer), "resumed_keys": OrderedDict(loss=True)},
        "palette": np.zeros((2, 3), np.uint8),
        "random": np.random.RandomState(0).get_state(),
        "metainfo": ConfigDict(classes=("a",), nested={"b": 1}),
        "args": argparse.Namespace(out=Path("x"), ids={1, 2}, kinds=frozenset("a"), part=slice(1, 2), raw=b"\xff"),
        "state_dict": state,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
    }


@BOTH
def test_tensors_of_every_kind_are_read_as_they_were(tmp_path: Path, zipped: bool) -> None:
    state = _tensors()
    read = weights.read(_save(tmp_path / "a.pth", state, zipped))
    _assert_same(read, state)
    read["base"][1, 2] = -1  # storage stays shared
    assert read["row"][2] == read["column"][1] == read["transposed"][2, 1] == -1


@BOTH
def test_a_checkpoint_of_mmengine_is_read(tmp_path: Path, zipped: bool) -> None:
    state = _tensors()
    path = _save(tmp_path / "a.pth", _mmengine(state), zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    _assert_same(weights.read(path), state)


@BOTH
def test_names_of_older_numpy_are_read(tmp_path: Path, zipped: bool) -> None:
    path = _save(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(1)}, "meta": np.float64(1)}, ZIP)
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records.items():
            assert name != "a/data.pkl" or b"numpy._core" in data
            file.writestr(name, data.replace(b"numpy._core", b"numpy.core"))
    _assert_same(weights.read(path), {"a": torch.ones(1)})


def test_only_the_place_of_what_is_no_tensor_is_taken() -> None:
    inert = weights.Inert(1, "a", [2])
    assert inert.__setstate__({"a": 1}) is None
    assert not hasattr(inert, "__dict__")
    assert (
        not {name for name in dir(weights.Inert) if name not in dir(object)}
        - {"__setstate__", "__slots__"}
        - {
            "__module__",
            "__annotations__",
        }
    )


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = {"b": torch.arange(3), "a": torch.randn(2, 2).bfloat16()}
    save_file(state, tmp_path / "a.safetensors")
    read = weights.read(tmp_path / "a.safetensors")
    _assert_same(dict(sorted(read.items())), dict(sorted(state.items())))


A, B = torch.ones(1), torch.zeros(2)
LAYOUTS = {
    "plain": ({"a": A, "b": B}, {"a": A, "b": B}),
    "state_dict": ({"state_dict": {"a": A}, "b": B}, {"a": A}),
    "model": ({"model": {"a": A}, "epoch": 3}, {"a": A}),
    "a layer named model": ({"model": A, "b": B}, {"model": A, "b": B}),
    "parallel": ({"model": {"module.a": A, "module.module.b": B}}, {"a": A, "module.b": B}),
    "a layer named module": ({"module.a": A, "b": B}, {"module.a": A, "b": B}),
    "lightning": (
        {"state_dict": {"model.network.a": A, "model.network.module.b": B, "loss.weight": B, "model.other": B}},
        {"a": A, "module.b": B},
    ),
    "no tensors left out": ({"a": A, "steps": 3, 7: B, "name": "x", "list": [B]}, {"a": A}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_state_dict_is_found(tmp_path: Path, layout: str) -> None:
    content, expected = LAYOUTS[layout]
    _assert_same(weights.read(_save(tmp_path / "a.pth", content)), expected)


@pytest.mark.parametrize("content", [{}, {"state_dict": {"a": 1}, "b": A}, [A], A, 3, {"model": {"x": {"a": A}}}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    assert "holds no weights" in _message(weights.read, _save(tmp_path / "a.pth", content))


def _broken(folder: Path) -> dict[str, Path]:
    whole = _save(folder / "whole.pth", {"a": torch.ones(9999)}).read_bytes()
    legacy = _save(folder / "legacy.pth", {"a": torch.ones(9999)}, LEGACY).read_bytes()
    contents = {
        "empty.pth": b"",
        "text.pth": b"not a checkpoint\n",
        "page.pth": b"<html><body>404</body></html>",
        "cut.pth": whole[: len(whole) // 2],
        "cut_legacy.pth": legacy[: len(legacy) // 2],
        "short_legacy.pth": legacy[:-4],
        "text.safetensors": b"not a checkpoint\n",
        "renamed.safetensors": whole,
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder.pth").mkdir()
    return {name: folder / name for name in [*contents, "folder.pth", "absent.pth", "absent.safetensors"]}


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in _broken(tmp_path).values():
        message = _message(weights.read, path)
        assert message.startswith(f"{path} cannot be read as a checkpoint (")
        assert "weights_only" not in message


# --- from where


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def _published(folder: Path, digits: int = 8, wrong: bool = False) -> Path:
    path = _save(folder / "unet.pth", {"a": torch.ones(2)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    digest = ("0" if digest[0] != "0" else "1") + digest[1:] if wrong else digest
    return path.rename(folder / f"unet_20200101_010101-{digest[:digits]}.pth")


@pytest.mark.parametrize("digits", [8, 64])
def test_a_download_is_checked_and_kept(tmp_path: Path, cache: Path, digits: int) -> None:
    source = _published(tmp_path, digits)
    address = f"{source.as_uri()}?download=1"
    path = weights.download(source.as_uri())
    assert path == cache / source.name
    assert path.read_bytes() == source.read_bytes()
    source.unlink()
    assert weights.download(address) == path
    assert [file.name for file in cache.iterdir()] == [source.name]


def test_a_damaged_file_in_the_cache_is_refused(tmp_path: Path, cache: Path) -> None:
    source = _published(tmp_path)
    path = weights.download(source.as_uri())
    path.write_bytes(b"damaged")
    message = _message(weights.download, source.as_uri())
    assert str(path) in message
    assert f"sha256 {source.stem[-8:]}" in message
    assert hashlib.sha256(b"damaged").hexdigest()[:8] in message
    assert "delete it" in message
    path.unlink()
    assert weights.download(source.as_uri()).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("digits", [8, 64])
def test_a_download_with_another_checksum_is_refused_and_not_kept(tmp_path: Path, cache: Path, digits: int) -> None:
    source = _published(tmp_path, digits, wrong=True)
    message = _message(weights.download, source.as_uri())
    assert message.startswith(f"{source.as_uri()} cannot be downloaded (RuntimeError: invalid hash value")
    assert message.endswith("download it elsewhere and say weights=<file>")
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "address",
    [
        "absent.pth",
        "",
        "..",
        "a/..",
        "a.pth",
        "://a/a.pth",
        "http://localhost:1/a.pth",
        "http://localhost:1",
        "http://[/a",
    ],
)
def test_a_download_that_fails_is_one_line(tmp_path: Path, cache: Path, address: str) -> None:
    whole = address if ":" in address or address == "a.pth" else f"{tmp_path.as_uri()}/{address}"
    message = _message(weights.download, whole)
    assert message.startswith(f"{whole} cannot be downloaded (")
    assert message.endswith("; download it elsewhere and say weights=<file>")
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "hub").write_text("a file where the folder should be")
    assert "cannot be downloaded" in _message(weights.download, _published(tmp_path).as_uri())


@pytest.mark.parametrize("name", ["unet.pth", "unet-50.pth", "unet-20240131.pth", "unet-8c7c0b3b (1).pth", "a-best"])
def test_a_name_without_checksum_is_not_checked(tmp_path: Path, cache: Path, name: str) -> None:
    source = _save(tmp_path / name, {"a": torch.ones(1)})
    weights.check_hash(source)
    assert weights.download(source.as_uri()).is_file()


@pytest.mark.parametrize(
    "name", ["unet-8c7c0b3b.pth", "unet-20249999.pth", "unet-12345678.pt", "a-01234567.safetensors"]
)
def test_a_name_with_another_checksum_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert "cannot be read" in _message(weights.check_hash, path)
    path.write_bytes(b"x")
    assert "delete it" in _message(weights.check_hash, path)


def test_a_name_with_its_checksum_is_taken(tmp_path: Path) -> None:
    weights.check_hash(_published(tmp_path))


# --- into which network


def _randomized(net: Net, seed: int) -> Net:
    torch.manual_seed(seed)
    for value in net.state_dict().values():
        value.copy_(torch.randint(100, value.shape))
    return net


def test_every_parameter_and_buffer_is_loaded(tmp_path: Path) -> None:
    net, source = _randomized(Net(), 0).half(), _randomized(Net(), 1)
    net.stem.weight.requires_grad = False
    read = weights.read(_save(tmp_path / "a.pth", source.state_dict()))
    assert weights.load(net, read, "a.pth", 3) == []
    for key, value in net.state_dict().items():
        assert torch.equal(value.float(), source.state_dict()[key].float()), key
    assert net.stem.weight.dtype == torch.float16
    assert [name for name, value in net.named_parameters() if not value.requires_grad] == ["stem.weight"]


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_the_classifier_of_other_classes_keeps_its_start(classes: int) -> None:
    net, source = _randomized(Net(), 0), _randomized(Net(classes), 1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    kept = weights.load(net, source.state_dict(), "a.pth", 3)
    assert sorted(kept) == ["class_weight", "head.bias", "head.weight", "query.bias", "query.weight"]
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else source.state_dict()[key]), key


def test_a_layer_that_has_as_many_channels_as_there_are_classes_is_no_classifier() -> None:
    source = Net(classes=7, width=4).state_dict()
    source["stem.weight"] = torch.zeros(5, 1, 1, 1)  # ours has num_classes + 1 = 4, of 7 classes it would have 8
    message = _message(weights.load, Net(width=4), source, "a.pth", 3)
    assert "6 of another shape (class_weight: file (8,) here (4,), stem.weight: file (5, 1, 1, 1) here (4" in message


def test_the_counters_of_batch_norms_may_lack_or_be_too_many() -> None:
    net, state = _randomized(Net(), 0), _randomized(Net(), 1).state_dict()
    counter, before = state.pop("norm.num_batches_tracked"), net.norm.num_batches_tracked.clone()
    state["other.num_batches_tracked"] = counter
    assert weights.load(net, state, "a.pth", 3) == []
    assert torch.equal(net.norm.num_batches_tracked, before)
    assert torch.equal(net.stem.weight, state["stem.weight"])


def _missing(state: dict[str, Tensor]) -> None:
    del state["norm.running_mean"]


def _unexpected(state: dict[str, Tensor]) -> None:
    state["other"] = A


def _reshaped(state: dict[str, Tensor]) -> None:
    state["stem.bias"] = torch.zeros(9, 1)


def _every(state: dict[str, Tensor]) -> None:
    for key in ("stem.weight", "stem.bias", "norm.weight", "norm.running_var"):
        state[f"old.{key}"] = state.pop(key)
    state["head.weight"] = torch.zeros(3, 9, 1, 1)


FAULTS = {
    _missing: "1 missing (first norm.running_mean)",
    _unexpected: "1 unexpected (first other)",
    _reshaped: "1 of another shape (stem.bias: file (9, 1) here (6,))",
    _every: "4 missing (first stem.weight, stem.bias, norm.weight, ...), 4 unexpected (first old.stem.weight, "
    "old.stem.bias, old.norm.weight, ...), 1 of another shape (head.weight: file (3, 9, 1, 1) here (3, 6, 1, 1))",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_of_another_model_are_refused_and_none_loaded(fault: Callable[[dict[str, Tensor]], None]) -> None:
    net, state = _randomized(Net(), 0), _randomized(Net(), 1).state_dict()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fault(state)
    message = _message(weights.load, net, state, "hub:x", 3)
    assert message == f"weights=hub:x is for another model: {FAULTS[fault]}"
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_tensor_without_data_is_refused() -> None:
    state = {**Net().state_dict(), "stem.bias": torch.empty(6, device="meta")}
    assert "cannot be loaded" in _message(weights.load, Net(), state, "a.pth", 3)

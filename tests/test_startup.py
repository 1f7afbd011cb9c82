"""What is imported from the command to the first training step: seconds say less, and other things on busy machines."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, TINY

sys.path.insert(0, str(ROOT / "benchmarks"))
from startup import BARE, FIRST_STEP

OURS = {"antlr4", "attr", "cv2", "hydra", "hydra_plugins", "omegaconf", "seggrid", "timm", "yaml"}
MARKS = {
    "smp": {"segmentation_models_pytorch", "seggrid.models.smp"},
    "torchvision": {"seggrid.models.torchvision"},  # the others import the library, and so does Lightning
    "mmseg": {"mmseg", "mmengine", "mmcv", "mmdet", "seggrid.models.mmseg"},
}
FOR_OTHER_CHOICES = {"seggrid.models.custom", "seggrid.comparison.page", "tensorboard"}


def _run(*arguments: str) -> Any:
    """Runs Python in a process of its own, and returns what it prints as JSON in its last line."""
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """The packages that Lightning and the three libraries import by themselves."""
    imports = "\n".join(program for _, program in BARE.values())
    return _packages(_run("-c", f"{imports}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"))


def _packages(modules: list[str]) -> set[str]:
    names = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("backend", BARE)
def test_no_other_backend_and_nothing_needless_is_imported_by_the_first_step(
    backend: str, bare: set[str], tmp_path: Path
) -> None:
    arch, _ = BARE[backend]
    cell = [argument for argument in TINY if not argument.startswith("arch=")]
    modules = set(_run(FIRST_STEP, f"backend={backend}", f"arch={arch}", *cell, f"hydra.run.dir={tmp_path}"))
    assert {name for name, marks in MARKS.items() if marks & modules} == {backend}
    assert _packages(list(modules)) - bare <= OURS
    assert not FOR_OTHER_CHOICES & modules


def test_garbage_is_not_looked_for_during_the_first_imports_and_is_afterwards() -> None:
    program = """
import atexit, gc, json
seen = []
atexit.register(lambda: print(json.dumps([*seen, gc.get_freeze_count()])))  # the first to be registered runs last
from seggrid.quick_import import without_garbage_collection
with without_garbage_collection():
    import torch
    during = gc.isenabled()
first = gc.get_freeze_count()
with without_garbage_collection():
    again = gc.isenabled()
seen += [during, gc.isenabled(), again, first > 10_000, gc.get_freeze_count() <= first]
"""
    assert _run("-c", program) == [False, True, True, True, True, 0]


def test_composing_imports_no_torch() -> None:
    program = "import seggrid.entry, seggrid.checks, json, sys; print(json.dumps(list(sys.modules)))"
    assert _packages(_run("-c", program)) <= OURS | {"cython_runtime", "packaging"}

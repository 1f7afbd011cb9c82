"""Every preset of a sweep in conf/experiment names choices that there are, and cells that can be."""

import math
from collections.abc import Callable
from typing import Any

import hydra
import pytest
from command import ROOT
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from seggrid import config
from seggrid.checks import MANY_JOBS, ImpossibleCellError
from seggrid.encoder_names import is_encoder
from seggrid.run import check

PRESETS = {path.stem: path.read_text() for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))}
SWEEPS = [name for name, text in PRESETS.items() if "sweeper:" in text]


def _kind(name: str) -> str:
    return "profile" if "python profile.py" in PRESETS[name] else "train"


@pytest.mark.parametrize("name", SWEEPS)
def test_a_preset_is_a_sweep_of_cells(name: str, compose: Callable[..., Any]) -> None:
    kind = _kind(name)
    config.register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = hydra.compose(kind, [f"experiment={name}"], return_hydra_config=True)
        params = OmegaConf.to_container(composed.hydra.sweeper.params)
        assert isinstance(params, dict)
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
        choices = {
            item.get_key_element(): list(item.sweep_string_iterator()) if item.is_sweep_override() else [item.value()]
            for item in parsed
        }
    jobs = math.prod(len(values) for values in choices.values())
    assert 1 < jobs <= MANY_JOBS
    for key, values in choices.items():
        folder = ROOT / "conf" / key
        files = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
        assert all(value in files or (key == "encoder" and is_encoder(value)) for value in values)
    possible = 0
    first = {key: values[0] for key, values in choices.items()}
    for key, values in choices.items():
        for value in values[:3]:
            said = [f"{other}={chosen}" for other, chosen in {**first, key: value}.items()]
            try:
                check(kind, compose(kind, f"experiment={name}", *said))
                possible += 1
            except ImpossibleCellError:
                continue
    assert possible


@pytest.mark.parametrize("name", ["cross_library", "laptop"])
def test_each_library_has_a_part_in_a_grid_across_them(name: str, compose: Callable[..., Any]) -> None:
    for backend in ("smp", "torchvision", "mmseg"):
        check("train", compose("train", f"experiment={name}", f"backend={backend}", "arch=deeplabv3"))


def test_one_arch_has_twenty_encoders(compose: Callable[..., Any]) -> None:
    text = PRESETS["encoders"].split("encoder: >-")[1]
    names = [name.strip() for name in text.replace("\n", " ").split(",")]
    assert len(set(names)) == 20
    assert all(is_encoder(name) for name in names)

"""The rows of ``experiment=published`` and ``experiment=speed_table``: what is published, and what is measured here."""

import re
from pathlib import Path
from typing import Any

import hydra
import pytest
import torchvision
import yaml
from command import record, run_here
from omegaconf import OmegaConf

from seggrid import models
from seggrid.checks import ImpossibleCellError, check_profile
from seggrid.config import ProfileConfig, PublishedConfig, model_config, register
from seggrid.counts import count
from seggrid.published import beside

CONF = Path(__file__).resolve().parent.parent / "conf"
COUNTS = sorted(file.stem for file in (CONF / "published").glob("*.yaml"))
SPEEDS = sorted(file.stem for file in (CONF / "speed").glob("*.yaml"))
QUICK = {"ddrnet_23_slim", "segformer_b0", "lraspp_mobilenet_v3_large"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MMSegmentation's heads, about their losses


def _digits(name: str, key: str) -> tuple[float, float] | None:
    """Returns the published figure in its unit as printed, and what one unit of its last digit stands for."""
    found = re.search(
        rf"^  {key}: (\d+)(?:\.(\d+))?(?:e(\d))?$", (CONF / "published" / f"{name}.yaml").read_text(), re.M
    )
    if found is None:
        return None
    whole, decimals, exponent = found.group(1), found.group(2) or "", int(found.group(3) or 0)
    return float(f"{whole}.{decimals or 0}e{exponent}"), 10.0 ** (exponent - len(decimals))


def _equals(name: str, key: str, measured: float) -> bool:
    printed = _digits(name, key)
    return printed is None or abs(measured - printed[0]) <= printed[1] / 2 * (1 + 1e-9)


def test_every_row_composes_and_names_a_source() -> None:
    register("profile")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = {name: hydra.compose("profile", ["experiment=published", f"published={name}"]) for name in COUNTS}
    for name, values in composed.items():
        config: Any = OmegaConf.to_object(values)
        check_profile(config)
        assert config.counts_only
        assert config.published.source
        assert config.published.params or config.published.gmacs
        for key in ("params", "gmacs"):
            printed = _digits(name, key)
            assert getattr(config.published, key) == (None if printed is None else pytest.approx(printed[0]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in COUNTS]
)
def test_what_is_measured_equals_what_is_published_to_the_digits_printed_or_the_row_says_why_not(
    name: str, compose: Any
) -> None:
    config: ProfileConfig = compose("profile", "experiment=published", f"published={name}")
    model = models.build(model_config(config))
    height, width = config.input.size
    section = count(model, (height, width))
    equals = all(_equals(name, key, section[key]) for key in ("params", "gmacs"))
    assert equals == (config.published.note is None), {key: section[key] for key in ("params", "params_aux", "gmacs")}
    # Whatever the reason, it is a small part: an image of another size, or a factor of two, would be none.
    if config.published.gmacs is not None:
        assert section["gmacs"] + (section["gmacs_aux"] or 0) == pytest.approx(config.published.gmacs, rel=0.08)
    if config.backend.name == "torchvision":
        assert section["params"] == config.published.params
        assert round(section["gmacs"] + section["gmacs_aux"], 3) == config.published.gmacs
    if name in ("swin_tiny", "convnext_tiny"):
        assert section["gmacs"] == pytest.approx(config.published.gmacs, rel=0.001)


def test_torchvisions_figures_are_those_of_its_metadata() -> None:
    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    assert set(names) <= set(COUNTS)
    for name in names:
        meta = torchvision.models.get_model_weights(name).DEFAULT.meta
        published = yaml.safe_load((CONF / "published" / f"{name}.yaml").read_text())["published"]
        assert (published["params"], published["gmacs"]) == (meta["num_params"], meta["_ops"])


def test_the_sweep_goes_over_the_files_and_its_record_holds_both_figures(tmp_path: Path) -> None:
    run_here("profile.py", "-m", "experiment=published", "published=glob(lraspp*)", f"hydra.sweep.dir={tmp_path}")
    values = record(tmp_path / "lraspp_mobilenet_v3_large")
    assert values["model"]["params"] == values["published"]["params"] == 3221538
    assert values["published"]["gmacs"] == round(values["model"]["gmacs"], 3) == 2.086
    assert values["published"]["source"].startswith("torchvision")
    assert values["published"]["note"] is None
    sweep = yaml.safe_load((CONF / "experiment" / "published.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert sweep == {"published": "glob(*)"}


def test_what_the_library_publishes_stays_beside_what_others_do() -> None:
    others = PublishedConfig(params=3.8e6, source="a paper")
    assert beside(None, PublishedConfig()) is None
    assert beside({"mIoU": 0.4}, PublishedConfig()) == {"mIoU": 0.4}
    both = beside({"mIoU": 0.4}, others)
    assert both is not None
    assert (both["mIoU"], both["params"], both["source"], both["gmacs"]) == (0.4, 3.8e6, "a paper", None)


# The speed table


@pytest.mark.parametrize("name", SPEEDS)
def test_a_row_of_the_speed_table_is_the_published_setting(name: str, compose: Any) -> None:
    config: ProfileConfig = compose("profile", "experiment=speed_table", f"speed={name}")
    if config.backend.name == "torchvision" and config.arch.name != "deeplabv3":
        with pytest.raises(ImpossibleCellError, match="backend=torchvision has no arch="):
            check_profile(config)
    else:
        check_profile(config)
    assert name == f"{config.arch.name}_{config.backend.name}"
    assert (config.input.size, config.batch_size, config.num_classes) == ([512, 1024], 2, 19)
    assert (config.encoder.name, config.measure, config.optimizer.name) == ("resnet101c", ["training"], "sgd")
    published = {"pspnet": 0.83, "deeplabv3plus": 0.85}
    assert config.published.train_s_per_iter == published.get(config.arch.name)
    assert (config.published.train_s_per_iter is None) == (config.published.device is None)
    assert config.published.note


def test_the_speed_table_has_every_library_for_every_arch() -> None:
    archs = {name.partition("_")[0] for name in SPEEDS}
    assert archs == {"pspnet", "deeplabv3plus", "deeplabv3"}
    assert set(SPEEDS) == {f"{arch}_{backend}" for arch in archs for backend in ("mmseg", "smp", "torchvision")}


@pytest.mark.slow
def test_timms_resnet101c_is_mmsegmentations_resnet101_v1c(build_model: Any) -> None:
    ours = build_model("mmseg", "pspnet", "resnet101c")
    theirs = build_model("mmseg", "pspnet", "mmseg/resnet101_v1c")
    assert count(ours, (64, 64)) == count(theirs, (64, 64))


@pytest.mark.slow
def test_the_speed_tables_sweep_skips_what_a_library_lacks(tmp_path: Path) -> None:
    run_here("profile.py", "-m", "experiment=speed_table", "counts_only=true", f"hydra.sweep.dir={tmp_path}")
    found = {folder.name: record(folder) for folder in tmp_path.iterdir() if folder.is_dir()}
    assert set(found) == set(SPEEDS)
    skipped = {name for name, values in found.items() if values["status"] == "skipped"}
    assert skipped == {"pspnet_torchvision", "deeplabv3plus_torchvision"}
    done = [values for name, values in found.items() if name not in skipped]
    assert all(values["status"] == "completed" and values["model"]["output_stride"] == 8 for values in done)
    assert {values["model"]["params_encoder"] for values in done} == {42_519_392}
    assert found["pspnet_mmseg"]["published"]["train_s_per_iter"] == 0.83

"""What can be said on the command line, what is refused, and how it is told."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from seggrid import checks, config
from seggrid.checks import ImpossibleCellError, check_profile, check_train
from seggrid.encoder_names import encoder_names
from seggrid.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
FILES = [(group, file) for group in GROUPS for file in sorted((CONF / group).rglob("*.yaml"))]
OF_PROFILES = {"published", "speed", "speed_table"}  # groups and experiments that tests/test_published.py composes
CHOICES = [(group, file) for group, file in FILES if not {group, file.stem} & OF_PROFILES]
OWN_DATA = ("dataset=folder", "dataset.classes=[a,b]", "dataset.root=data")


def _choice(group: str, file: Path) -> str:
    return str(file.relative_to(CONF / group).with_suffix(""))


def _run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


# What is there works


@pytest.mark.parametrize(("group", "file"), CHOICES, ids=[f"{group}={_choice(group, file)}" for group, file in CHOICES])
def test_every_choice_composes_and_passes_the_checks(group: str, file: Path, compose: Any, tmp_path: Path) -> None:
    choice = _choice(group, file)
    overrides = [f"{group}={choice}"]
    if (group, choice) == ("encoder", "native"):
        overrides += ["backend=mmseg", "arch=fcn"]
    elif group == "arch":
        overrides.append(f"backend={next(iter(yaml.safe_load(file.read_text())['backends']))}")
    elif group == "backend" or "/" in choice:
        backend = choice.split("/")[0]
        overrides += [f"backend={backend}"] * (group != "backend") + [f"arch={checks.archs_of(backend)[0]}"]
    elif group == "dataset" and "shapes" not in yaml.safe_load(file.read_text()):
        overrides.append(f"dataset.root={tmp_path}")
        overrides += ["dataset.classes=[a,b]"] if "classes" not in yaml.safe_load(file.read_text()) else []
    if group in ("inference", "tta"):
        composed = compose("evaluate", "run=somewhere", *overrides)
        checks.check_evaluate(composed)
    else:
        composed = compose("train", *overrides)
        assert isinstance(composed, config.TrainConfig)
        check_train(composed)
    if group != "experiment" and "name" in yaml.safe_load(file.read_text()):
        assert getattr(composed, group).name == choice


def test_the_other_commands_compose(compose: Any) -> None:
    check_profile(compose("profile"))
    checks.check_evaluate(compose("evaluate", "run=somewhere"))


# Encoder names


def test_encoder_names_are_those_that_the_libraries_list() -> None:
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    names = {name for name in encoder_names() if "/" not in name}
    assert names == set(timm.list_models())
    assert encoder_names() - names == {f"smp/{name}" for name in get_encoder_names()}


@pytest.mark.parametrize(
    ("name", "library", "model"),
    [
        ("convnext_tiny.fb_in22k", "timm", "convnext_tiny.fb_in22k"),
        ("resnet10t", "timm", "resnet10t"),  # no file in conf/encoder
        ("smp/timm-efficientnet-b0", "smp", "timm-efficientnet-b0"),
        ("torchvision/mobilenet_v3_large", "torchvision", "mobilenet_v3_large"),
        ("mmseg/mit_b0", "mmseg", "mit_b0"),
    ],
)
def test_an_encoder_of_any_library(name: str, library: str, model: str, compose: Any) -> None:
    encoder = compose("train", f"encoder={name}").encoder
    assert (encoder.name, encoder.library, encoder.model) == (name, library, model)


def test_a_file_wins_over_the_plugin(compose: Any, tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "encoder" / "resnet10t.yaml").write_text("name: resnet10t\nweights: ours.pt\n")
    assert compose("train", "encoder=resnet10t", conf=conf).encoder.weights == "ours.pt"
    assert compose("train", "encoder=resnet10t").encoder.weights is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("convnext_t*", lambda name: name.startswith("convnext_t")),
        ("smp/mit_*", lambda name: name.startswith("smp/mit_")),
        ("test_vit?", lambda name: name.startswith("test_vit") and len(name) == 9),
    ],
)
def test_a_glob_in_a_sweep_finds_every_name_once(pattern: str, expected: Callable[[str], bool]) -> None:
    config.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        (override,) = parser.parse_overrides([f"encoder=glob({pattern})"])
        swept = [item.removeprefix("encoder=") for item in override.sweep_string_iterator()]
    assert swept == sorted(filter(expected, encoder_names()))
    assert len(swept) > 1


# What is refused on the command line: status 1, and one line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer.max_epoch=1"], ["trainer.max_epoch is not a key", "did you mean max_epochs?"]),
        (["+trainer.max_epoch=1"], ["trainer.max_epoch is not a key", "did you mean max_epochs?"]),
        (["dataset.classes=[bg]"], ["dataset.classes has one class", "name the background too"]),
        (["dataset=folder"], ["dataset.classes is not set", "dataset.classes=<value>"]),
        (["optimizer.lr=inf"], ["optimizer.lr is inf", "finite number above 0"]),
        (["btach_size=1"], ["btach_size is not a key", "did you mean batch_size?"]),
        (["batch_size=many"], ["batch_size", "many", "Integer"]),
        (["batch_size=0"], ["batch_size is 0", "at least 1"]),
        (["arch=unett"], ["arch=unett is not a choice", "did you mean unet", "Allowed: ann, apcnet, beit"]),
        (["encoder=convnxt_tiny"], ["encoder=convnxt_tiny is not a choice", "did you mean convnext_tiny"]),
        (["encoder=smp/resnt18"], ["encoder=smp/resnt18 is not a choice", "did you mean smp/resnet18"]),
        (
            ["backend=torchvision", "arch=unet"],
            [
                "backend=torchvision has no arch=unet",
                "arch=unet is in backend=mmseg,smp",
                "has arch=deeplabv3,fcn,lraspp",
            ],
        ),
        (
            ["backend=smp", "arch=unet", "arch.config=pspnet_r50-d8"],
            ["arch.config is set, but arch=unet has no such setting: it belongs to arch=official"],
        ),
        (["backend=smp", "arch=unet", "encoder=native"], ["backend=smp has no encoder of its own for arch=unet"]),
        (["backend=mmseg", "arch=stdc", "encoder=resnet18"], ["arch=stdc is a network of its own", "encoder=native"]),
        (
            ["backend=mmseg", "arch=mask2former", "loss.aux_weight=0.2"],
            ["loss.aux_weight is set, but native has no such setting"],
        ),
        (["weights=a.pth", "encoder.weights=b.pth"], ["weights and encoder.weights are both set"]),
        (
            ["backend=mmseg", "arch=fcn", "encoder=smp/resnet18"],
            ["backend=mmseg cannot take encoder=smp/resnet18", "choose a timm name or mmseg/<name>"],
        ),
    ],
    ids=lambda value: " ".join(value) if value[0].count("=") else "",
)
def test_a_wrong_command_is_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    run = _run("train.py", *arguments, f"hydra.run.dir={tmp_path}")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    for word in words:
        assert word in run.stderr
    assert run.stdout == ""


def test_an_impossible_cell_lists_every_arch_of_the_backend() -> None:
    archs = [yaml.safe_load(file.read_text()) for file in sorted((CONF / "arch").glob("*.yaml"))]
    for backend in ("smp", "torchvision", "mmseg"):
        assert checks.archs_of(backend) == [arch["name"] for arch in archs if backend in arch["backends"]]


def test_a_misspelt_name_stops_a_sweep_before_its_first_job(tmp_path: Path) -> None:
    # batch_size=0 would end the first job early, and leave its record.
    run = _run("train.py", "-m", "encoder=resnet18,convnxt_tiny", "batch_size=0", f"hydra.sweep.dir={tmp_path}")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "did you mean convnext_tiny" in run.stderr
    assert not list(tmp_path.rglob("result.json"))


def test_a_glob_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    run = _run("train.py", "-m", "encoder=glob(zzz*)", f"hydra.sweep.dir={tmp_path}")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "matches nothing" in run.stderr


# Values that have the right type, and are impossible


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["loss.name=hinge"], "loss.name"),
        (["optimizer.name=adam"], "optimizer.name"),
        (["schedule.name=step"], "schedule.name"),
        (["logger.name=mlflow"], "logger.name"),
        (["logger.mode=maybe"], "logger.mode"),
        (["trainer.accelerator=tpu"], "trainer.accelerator"),
        (["trainer.precision=8"], "trainer.precision"),
        (["loss=dice", "loss.label_smoothing=0.1"], "loss.label_smoothing"),
        (["loss.gamma=2"], "loss.gamma"),
        (["loss=focal", "loss.threshold=0.5"], "loss.threshold"),
        (["loss.min_kept_fraction=0.5"], "loss.min_kept_fraction"),
        (["loss=lovasz", "loss.class_weights=[1,1,1,1,1,1]"], "loss.class_weights"),
        (["loss.class_weights=[1,1]"], "loss.class_weights"),
        (["optimizer=sgd", "optimizer.betas=[0.9,0.99]"], "optimizer.betas"),
        (["optimizer.momentum=0.9"], "optimizer.momentum"),
        (["schedule=cosine", "schedule.power=2"], "schedule.power"),
        (["batch_size=0"], "batch_size"),
        (["eval_batch_size=0"], "eval_batch_size"),
        (["num_workers=-1"], "num_workers"),
        (["pictures=-1"], "pictures"),
        (["seed=-1"], "seed"),
        (["trainer.max_epochs=0"], "trainer.max_epochs"),
        (["trainer.val_every_n_epochs=0"], "trainer.val_every_n_epochs"),
        (["trainer.max_epochs=2", "trainer.val_every_n_epochs=3"], "trainer.val_every_n_epochs"),
        (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps"),
        (["trainer.gradient_clip_norm=0"], "trainer.gradient_clip_norm"),
        (["trainer.devices=0"], "trainer.devices"),
        (["trainer.devices=some"], "trainer.devices"),
        (["trainer.devices=[]"], "trainer.devices"),
        (["trainer.devices=true"], "trainer.devices"),
        (["optimizer.lr=0"], "optimizer.lr"),
        (["optimizer.lr=nan"], "optimizer.lr"),
        (["optimizer.encoder_lr_scale=-0.1"], "optimizer.encoder_lr_scale"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay"),
        (["schedule.warmup_fraction=1.5"], "schedule.warmup_fraction"),
        (["augment.flip=2"], "augment.flip"),
        (["augment.resize=[64]"], "augment.resize"),
        (["augment.crop=[64,0]"], "augment.crop"),
        (["augment.scale=[2,0.5]"], "augment.scale"),
        (["augment=standard", "augment.max_class_share=1"], "augment.max_class_share"),
        (["augment=standard", "augment.crop=null"], "augment.max_class_share"),
        (["dataset.cache=memory"], "dataset.cache"),
        (["dataset.cache=disk"], "dataset.cache=disk"),
        (["dataset.classes=[]"], "dataset.classes"),
        (["dataset.classes=[a,a]"], "dataset.classes"),
        (["dataset.ignore_index=2"], "dataset.ignore_index"),
        (["dataset.ignore_index=300"], "dataset.ignore_index"),
        (["dataset.palette=[[0,0,0]]"], "dataset.palette"),
        (["dataset.shapes.size=[0,1]"], "dataset.shapes.size"),
        (["dataset.shapes.train=0"], "dataset.shapes.train"),
        (["dataset.shapes.val=0"], "dataset.shapes.val"),
        (["dataset=camvid"], "dataset.root"),
        ([*OWN_DATA, "dataset.masks=null"], "dataset.masks"),
        ([*OWN_DATA, "dataset.val_fraction=1"], "dataset.val_fraction"),
        ([*OWN_DATA, "+dataset.label_map={7: 5}"], "dataset.label_map.7"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_value_is_one_line_that_names_the_key(overrides: list[str], key: str, compose: Any) -> None:
    with pytest.raises(UserError, match=key) as error:
        check_train(compose("train", *overrides))
    assert not isinstance(error.value, ImpossibleCellError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("num_classes=0", "num_classes"),
        ("warmup=-1", "warmup"),
        ("samples=0", "samples"),
        ("batch_size=0", "batch_size"),
        ("input.size=[0,64]", "input.size"),
        ("device=tpu", "device"),
    ],
)
def test_an_impossible_profile_is_one_line_that_names_the_key(override: str, key: str, compose: Any) -> None:
    with pytest.raises(UserError, match=key):
        check_profile(compose("profile", override))


# What the command line costs


SLOW_IMPORTS = {"torch", "timm", "torchvision", "pytorch_lightning", "segmentation_models_pytorch", "mmseg", "wandb"}
IMPORTS = """
import atexit, json, runpy, sys
script, result, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
atexit.register(lambda: open(result, "w").write(json.dumps(sorted(sys.modules))))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "profile.py"])
@pytest.mark.parametrize("question", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_a_question_is_answered_without_slow_imports(script: str, question: list[str], tmp_path: Path) -> None:
    modules = tmp_path / "modules.json"
    run = _run("-c", IMPORTS, str(ROOT / script), str(modules), *question)
    assert run.returncode == 0, run.stderr
    assert not SLOW_IMPORTS & set(json.loads(modules.read_text()))


@pytest.mark.parametrize("kind", ["train", "evaluate", "profile"])
def test_help_names_every_file_that_can_be_chosen_and_no_other_encoder(kind: str) -> None:
    run = _run(f"{kind}.py", "--help")
    assert run.returncode == 0, run.stderr
    words = {word.strip("[],") for word in run.stdout.split()}
    defaults = yaml.safe_load((CONF / f"{kind}.yaml").read_text())["defaults"]
    groups = {group for item in defaults if isinstance(item, dict) for group in item}
    assert {_choice(group, file) for group, file in FILES if group in groups} <= words
    assert ("encoder" in groups) == ("<any timm model name>" in " ".join(run.stdout.split()))
    assert not (encoder_names() - {_choice(*choice) for choice in FILES}) & words

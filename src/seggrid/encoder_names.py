"""The encoder names that installed libraries have, read from their source without importing them.

Importing timm or SMP takes seconds and pulls in torch; a command line that only names an encoder must not pay that.
"""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Of timm, to name in messages: feature maps of several strides, and of one.
DILATED = ("resnet50", "convnext_tiny", "efficientnet_b0")
PYRAMIDS = ("resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "pvt_v2_b1")
VITS = ("vit_small_patch16_224", "deit_small_patch16_224")


@cache
def encoder_names() -> frozenset[str]:
    """Returns every encoder name that needs no file in ``conf/encoder``: timm's, and SMP's as ``smp/<name>``."""
    return _timm_names() | {f"smp/{name}" for name in _smp_names()}


def is_encoder(name: str) -> bool:
    """Tells whether ``name`` is an encoder's; a timm name may carry the tag of its weights (``resnet50.a1_in1k``)."""
    base = name if name.startswith("smp/") else name.split(".", 1)[0]
    return base in encoder_names()


def _timm_names() -> frozenset[str]:
    # Equal to timm.list_models(); a test keeps it so.
    pattern = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
    files = (_folder("timm") / "models").rglob("*.py")
    return frozenset(name for file in files for name in pattern.findall(file.read_text(encoding="utf-8")))


def _smp_names() -> frozenset[str]:
    # Equal to smp.encoders.get_encoder_names(); the same test keeps it so.
    names: set[str] = set()
    for file in (_folder("segmentation_models_pytorch") / "encoders").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id.endswith("_encoders"):
                    names |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return frozenset(names)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is a dependency of seggrid"
    return Path(spec.origin).parent

"""Measure what a cell costs: ``python profile.py backend=mmseg arch=segformer encoder=mmseg/mit_b0``.

This file's name is also that of a module of the standard library, which ``cProfile`` imports. Run from this folder,
``import profile`` finds this file: it then hands over to the standard module.
"""

import sys

if __name__ == "profile":
    import sysconfig
    from importlib.util import module_from_spec, spec_from_file_location

    _spec = spec_from_file_location("profile", sysconfig.get_path("stdlib") + "/profile.py")
    assert _spec is not None and _spec.loader is not None
    _module = module_from_spec(_spec)
    sys.modules["profile"] = _module
    _spec.loader.exec_module(_module)
elif __name__ == "__main__":
    from pathlib import Path

    from seggrid.entry import main

    main("profile", Path(__file__).resolve().parent / "conf")

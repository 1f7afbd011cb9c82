"""Imports without the search for cyclic garbage, which finds none in them; imports no torch."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Lets torch and what is built on it be imported in about three quarters of the time.

    They make some 900,000 objects that stay, through which Python would look again and again as they become more. It
    does not look through them later either. Does nothing where torch is there already: what would be kept for good then
    are the models of a sweep's finished runs.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # else Triton complains at the end about what was never released

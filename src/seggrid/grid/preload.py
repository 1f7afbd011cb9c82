"""What the fork server imports, so that no job has to. Importing this file does it."""

import os
import signal
from contextlib import suppress
from importlib import import_module

from hydra.core.plugins import Plugins

from seggrid.quick_import import without_garbage_collection

MODULES = "SEGGRID_PRELOAD"  # in the environment of the server: their names, separated by spaces

# What ends the sweep ends its jobs by the sweep's own order; they take these signals back.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
with without_garbage_collection():  # which also leaves what is imported in pages that all jobs share
    Plugins.instance()  # finds Hydra's plugins, a tenth of a second
    for name in os.environ.get(MODULES, "").split():
        with suppress(Exception):  # a job that needs it meets the same, and says so
            import_module(name)

"""Imports what a user has written."""

import os
import sys
from importlib import import_module
from types import ModuleType

from seggrid.errors import UserError, one_line


def imported(module: str, setting: str) -> ModuleType:
    """Imports a module, from the current folder too: Python looks in a script's own folder, not in the current one.

    Args:
        module: its dotted name.
        setting: what the user named it with, for the message.

    Raises:
        UserError: it cannot be imported.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(module)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(
            f"{setting}: {module} cannot be imported ({type(error).__name__}: {one_line(error)[:200]}); it has to be "
            "installed or lie in the current folder"
        ) from error

"""Whether the hub of pretrained weights can be reached."""

import os
import socket
from urllib.parse import urlparse

OFFLINE = "HF_HUB_OFFLINE"


def go_offline_if_unreachable(timeout_s: float = 3.0) -> None:
    """Has the hub's client look in its cache only, where there is no network.

    Without this the client tries again for about a minute before it says that it has none. It reads the variable when
    it is imported, so this comes before any library of models. A user's own choice, and a proxy, are left alone.

    Args:
        timeout_s: how long to wait for an answer.
    """
    proxies = {"http_proxy", "https_proxy", "all_proxy"} & {name.lower() for name in os.environ}
    if OFFLINE in os.environ or proxies:
        return
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=timeout_s).close()
    except OSError:
        os.environ[OFFLINE] = "1"

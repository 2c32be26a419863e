"""The hub, in such a way that no network is one short line."""

import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLCertVerificationError

from deca_lab.errors import BadInput, check

ANSWERS = (401, 404, 405, 429)  # a hub's or a mirror's; a proxy that blocks says 403, 407 or 5xx
_OFFLINE = "HF_HUB_OFFLINE"
_TRUE = ("1", "ON", "YES", "TRUE")


def reach_hub(seconds: float = 3.0) -> bool:
    """Say within `seconds` whether the hub answers; False at once where HF_HUB_OFFLINE is set.

    The probe asks for the top page (HF_ENDPOINT, proxies from the environment) in a thread, because neither a name
    server nor a host that accepts and keeps silent obeys a socket's time-out.
    """
    if os.environ.get(_OFFLINE, "").upper() in _TRUE:
        return False
    answered: list[bool] = []
    thread = threading.Thread(target=lambda: answered.append(_answers(seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answered == [True]


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _answers(seconds: float) -> bool:
    try:
        request = urllib.request.Request(_endpoint(), method="HEAD")
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code in ANSWERS
    except urllib.error.URLError as error:
        # The hub's libraries bring their own certificates.
        return isinstance(error.reason, SSLCertVerificationError)
    except (OSError, ValueError):
        return False


@contextmanager
def offline() -> Iterator[None]:
    """Within it the libraries of the hub use their cache only, whether they were imported before or not."""
    before = os.environ.get(_OFFLINE)
    os.environ[_OFFLINE] = "1"  # read by those that are imported from here on
    _tell_libraries(True)
    try:
        yield
    finally:
        os.environ.pop(_OFFLINE, None) if before is None else os.environ.update({_OFFLINE: before})
        _tell_libraries((before or "").upper() in _TRUE)


def _tell_libraries(flag: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            setattr(sys.modules[name], _OFFLINE, flag)  # what their own is_offline_mode() returns


@contextmanager
def hub_or_offline(kind: str, name: str, seconds: float = 3.0) -> Iterator[bool]:
    """Reach the hub (True), or work from the cache (False); raise BadInput, in one line, when `name` is in neither.

    `kind` is "model" or "dataset". Import transformers or datasets inside the `with`, never before the probe.
    """
    check(kind in ("model", "dataset"), "kind", kind, "'model' or 'dataset'")
    if reach_hub(seconds):
        yield True
    elif is_cached(kind, name):
        with offline():
            yield False
    else:
        raise BadInput(unreachable(kind, name))


def unreachable(kind: str, name: str) -> str:
    """The one line about a hub that does not answer."""
    own = {"dataset": "file or an embedded corpus", "model": "path or an embedded preset"}
    instead = f"a local {own[kind]}"
    cause = f"{_OFFLINE} is set" if os.environ.get(_OFFLINE) else f"{_endpoint()} does not answer"
    return f"{kind} {name!r} is not in the cache and {cause}: connect to the network, or give {instead}"


def is_cached(kind: str, name: str) -> bool:
    """Say whether the hub's cache on this disk holds something of `name` ("owner/name")."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()
    places = [hub / f"{kind}s--{name.replace('/', '--')}"]
    if kind == "dataset":
        places.append(prepared / name.replace("/", "___"))
    return any(os.path.isdir(place) for place in places)  # False too for a name that is too long


def is_a(value: object, module: str, kind: str) -> bool:
    """Say whether a value is of a class of a module, which then is imported already."""
    return isinstance(value, getattr(sys.modules.get(module), kind, ()))

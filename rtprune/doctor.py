"""What this machine, its services and an OUTPUT lack for a run: looked at one by one, nothing is changed or fetched."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rtprune.errors import RTPruneError
from rtprune.settings import NO_MODEL, RunSettings, check_variables

State = Literal["ok", "warning", "problem"]

ANSWER_S = 2.0  # how long a service may take to answer
GIB = 2**30
#: Less than this is soon full: plans, queries that spill, Ray's logs and objects.
LEAST_DISK = 5 * GIB
#: Containers have 64 MiB unless told otherwise.
LEAST_SHARED_MEMORY = 512 * 2**20
#: Memory that reading takes beside the weights: encoders at work, and keys and values of a few pages.
BESIDE_WEIGHTS = {"cuda": 6 * GIB, "cpu": 2 * GIB}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was ``found``, and what to do about it where it is not "ok"."""

    name: str
    state: State
    found: str
    advice: str | None = None


def examine(settings: RunSettings, output: str | None = None) -> Iterator[Check]:
    """Look at everything that a run with these ``settings``, into ``output`` where it is given, rests on.

    In an OUTPUT a throw-away object is written and deleted. A check that fails is a problem, and never an exception.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", python),
        ("variables", variables),
        ("device", lambda: device(settings.model)),
        ("model", lambda: model(settings.model)),
        ("memory", lambda: memory(settings.model)),
        ("renderer", renderer),
        ("ray", lambda: ray(settings.ray_address)),
        ("prefect", prefect),
        ("disk", disk),
        ("shared memory", shared_memory),
    ]
    if output is not None:
        checks.append(("output", lambda: dataset(output)))
    for name, check in checks:
        try:
            yield check()
        except RTPruneError as error:
            yield Check(name, "problem", error.message, error.hint)
        except Exception as error:
            yield Check(name, "problem", f"{type(error).__name__}: {error}", "see whether rtprune is installed whole")


def python() -> Check:
    """Versions of Python and of this package."""
    return Check("python", "ok", f"{platform.python_version()}, rtprune {version('rtprune')}")


def variables() -> Check:
    """Whether every ``RTPRUNE_`` variable is one."""
    check_variables()
    names = sorted(name for name in os.environ if name.startswith("RTPRUNE_"))
    return Check("variables", "ok", ", ".join(names) or "none set")


def device(name: str) -> Check:
    """The GPU, or the cores there are instead."""
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        also = f", and {count - 1} more" if count > 1 else ""
        return Check(
            "device", "ok", f"{found.name}, {found.total_memory / GIB:.0f} GiB{also}, torch {torch.__version__}"
        )
    cores = f"no GPU, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    if name in (NO_MODEL, "mini"):
        return Check("device", "ok", cores)
    why = "was built without CUDA" if torch.version.cuda is None else "sees none"
    return Check("device", "warning", f"{cores}, which {why}", "full models take minutes a page on cores: use a GPU")


def model(name: str) -> Check:
    """Whether the model's weights are on this machine."""
    from rtprune.models import describe
    from rtprune.models.checkpoint import at_hand
    from rtprune.store import is_remote

    if name == NO_MODEL:
        return Check("model", "ok", "none: pages are rendered and recorded as skipped")
    if is_remote(name):
        return Check("model", "ok", f"{name}, fetched by each machine once")
    folder = at_hand(name)
    if folder is None:
        advice = "the first run fetches them, which needs a way to the hub; or name a folder or s3:// prefix"
        return Check("model", "warning", f"the weights of {name} are not on this machine", advice)
    card = describe(folder)
    return Check("model", "ok", f"{name}, {card.parameters / 1e6:,.0f} M parameters, mode {card.default_mode}")


def memory(name: str) -> Check:
    """Whether the device has memory for the model's weights and some pages."""
    import torch

    from rtprune.engine.budget import free_bytes
    from rtprune.models import describe
    from rtprune.models.checkpoint import at_hand

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    free = free_bytes(torch.device(kind))
    if free is None:
        return Check("memory", "warning", "this system does not tell how much is free", "watch it during the first run")
    found = f"{free / GIB:.1f} GiB free"
    if name == NO_MODEL:
        return Check("memory", "ok", found)
    folder = at_hand(name)
    if folder is None:
        unknown = f"{found}; what {name} needs is not known before its weights are here"
        return Check("memory", "warning", unknown, "look again once they are")
    needed = describe(folder).parameters * (2 if kind == "cuda" else 4) + BESIDE_WEIGHTS[kind]
    if free < needed:
        advice = f"free some: {name} takes about {needed / GIB:.1f} GiB with the least number of pages at a time"
        return Check("memory", "problem", found, advice)
    return Check("memory", "ok", f"{found}, about {needed / GIB:.1f} GiB needed")


def renderer() -> Check:
    """Whether pages can be drawn."""
    import pymupdf

    with pymupdf.open() as document:
        document.new_page(width=8, height=8).get_pixmap()
    return Check("renderer", "ok", f"PyMuPDF {version('pymupdf')}")


def ray(address: str | None) -> Check:
    """Whether the cluster that was named answers."""
    named = address or os.environ.get("RAY_ADDRESS")
    found = f"Ray {version('ray')}"
    if not named or named in ("auto", "local"):
        return Check(
            "ray", "ok", f"{found}, " + (f"address {named}" if named else "a local one is started by each run")
        )
    advice = "start it, or correct --ray-address or RAY_ADDRESS, or leave both out for a local one"
    parts = urlsplit(named if "//" in named else f"//{named}")
    try:
        port = parts.port or 10001
    except ValueError as error:
        return Check("ray", "problem", f"{found}, {named} is no address: {error}", advice)
    if not answers(parts.hostname, port):
        return Check("ray", "problem", f"{found}, nobody answers at {named}", advice)
    return Check("ray", "ok", f"{found}, {named} answers")


def prefect() -> Check:
    """Whether the API that flows would use answers; they need none."""
    from prefect.settings import Settings

    found = f"Prefect {version('prefect')}"
    url = Settings().api.url  # from the environment, a profile or a file, as Prefect itself finds it
    if not url:
        return Check("prefect", "ok", f"{found}, no API is set: a flow starts a server for itself")
    advice = "start it (prefect server start), or correct PREFECT_API_URL or the profile; rtprune run does without"
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_S).close()
    except urllib.error.HTTPError as error:
        return Check("prefect", "warning", f"{found}, {url} answers {error.code} ({error.reason})", advice)
    except (OSError, ValueError):
        return Check("prefect", "warning", f"{found}, {url} does not answer", advice)
    return Check("prefect", "ok", f"{found}, {url} answers")


def disk() -> Check:
    """Room for temporary files."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if free < LEAST_DISK:
        return Check("disk", "warning", found, "let TMPDIR name a folder with more: plans and Ray's files lie there")
    return Check("disk", "ok", found)


def shared_memory() -> Check:
    """Room for what Ray's processes hand to each other."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "warning", "there is no /dev/shm", "Ray uses the disk instead, which is slower")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if free < LEAST_SHARED_MEMORY:
        return Check(
            "shared memory", "warning", found, "free some, or give the container more: docker run --shm-size=1g"
        )
    return Check("shared memory", "ok", found)


def dataset(uri: str) -> Check:
    """Whether an OUTPUT can be written to, and what is there."""
    from rtprune.dataset import Output
    from rtprune.store import exists, is_remote, join, probe, require_reachable

    if is_remote(uri):
        require_reachable(uri)
        probe(uri)
    else:
        place = Path(uri).absolute() / "_rtprune"
        made = [folder for folder in (place, *place.parents) if not folder.exists()]
        probe(str(place.parent))
        for folder in made:
            with suppress(OSError):  # a run may have begun there
                folder.rmdir()
    writable = "can be written to as a dataset needs it"
    if not exists(join(uri, "_rtprune", "config.json")):
        return Check("output", "ok", f"{uri} {writable}; no dataset yet")
    return Check("output", "ok", f"{uri} {writable}; a dataset read by {Output.existing(uri).config.get('model')}")


def answers(host: str | None, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host or "127.0.0.1", port), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True

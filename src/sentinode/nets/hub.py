"""Weights that lie elsewhere: the local cache first, so that a file that is here needs no network; then a download.

Everything goes through `huggingface_hub` and torch's own downloader, with their caches and their settings (HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE, TORCH_HOME).
"""

import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from sentinode.errors import MachineProblem, UsageProblem, not_installed, shown
from sentinode.nets.states import first_line
from sentinode.settings import HUB

FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Names of its weights, the safe format first, as timm writes and looks for them."""


def repository(name: str) -> tuple[str, str | None]:
    """Return (OWNER/NAME, revision or None) of `hf-hub:OWNER/NAME[@REVISION]`."""
    found, _, revision = name.removeprefix(HUB).partition("@")
    return found, revision or None


def cached(name: str, files: Sequence[str] = FILES) -> Path | None:
    """Return the first of `files` of a hub repository that lies in the local cache; None if there is none.

    Raises UsageProblem for what is no name of a repository, MachineProblem where the hub's client is not installed.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:  # it comes with timm; every way to the hub begins here
        raise MachineProblem(
            "timm and huggingface_hub for networks of the hub", not_installed(error), "pip install 'sentinode[backbones]'"
        ) from error

    where, revision = repository(name)
    try:
        paths = (try_to_load_from_cache(where, file, revision=revision) for file in files)
        return next((Path(path) for path in paths if isinstance(path, str)), None)
    except HFValidationError as error:
        raise UsageProblem("hf-hub:OWNER/NAME", shown(name), "give the name as the hub shows it") from error


def fetched(name: str, files: Sequence[str] = FILES, *, instead: str = "") -> Path:
    """Return the first of `files` that a hub repository holds: from the local cache, else by download.

    Raises
    ------
    MachineProblem
        Without a network and without a copy, or without the right to read it; `instead` is what to do then besides downloading.
    UsageProblem
        If there is no such repository, or it holds none of the files.
    """
    path = cached(name, files)
    if path is not None:
        return path
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    where, revision = repository(name)
    get = f"{instead}run 'hf download {where}' where there is a network and set HF_HOME to its cache, or give --weights FILE"
    if (silence := no_network()) is not None:
        raise MachineProblem(f"the weights of {where} on this machine, or a network", f"no copy in the cache and {silence}", get)
    try:
        for file in files:
            try:
                return Path(hf_hub_download(where, file, revision=revision))
            except hub.LocalEntryNotFoundError:
                raise
            except hub.EntryNotFoundError:
                continue
    except hub.GatedRepoError as error:
        do = f"ask for access on the page of {where}, then run 'hf auth login'"
        raise MachineProblem(f"access to {shown(where)}", "a gated repository that this account may not read", do) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        do = "check the name with 'sentinode models', or run 'hf auth login' where it is private"
        raise UsageProblem("a repository of the hub", shown(name), do) from error
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, OSError) as error:
        raise MachineProblem(f"the weights of {where}", f"a download that failed ({first_line(error)})", get) from error
    raise UsageProblem(f"{' or '.join(files)} in {shown(where)}", "none of them", "name a repository with a timm network")


def fetched_url(url: str, *, instead: str = "") -> Path:
    """Return the file of an address that timm names: from torch's cache, else by download. Raises as `fetched` does."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.exists():
        return path
    named = torch.hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), named[1] if named else None, progress=False)
    except (OSError, RuntimeError) as error:
        get = shlex.join(["curl", "-L", url, "--create-dirs", "-o", str(path)])
        do = f"{instead}run {shown(get, 2000)} where there is a network, or give --weights FILE"
        raise MachineProblem(f"the weights {shown(url)}", f"no copy here, and {first_line(error)}", do) from error
    return path


def no_network(patience_s: float = 10.0) -> str | None:
    """Return why the hub cannot be reached, None if it can: asked once, where its own client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=patience_s).close()
    except HTTPError:
        return None  # it answered
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        # Anything else, such as a certificate that only the hub's client knows, is left to that client.
        unreachable = isinstance(reason, (socket.gaierror, ConnectionError, TimeoutError)) or getattr(reason, "errno", None) in {
            101,
            113,
        }
        return f"no network ({reason})" if unreachable else None
    return None

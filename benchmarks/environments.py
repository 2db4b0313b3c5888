"""Environments of peers whose packages do not go with ours.

`home_of` makes a missing one once, so that the board needs nothing but a network the first time.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parents[1] / ".peers"
"""Where the peers' environments are made; git ignores it."""
PACKAGES = {
    "tiatoolbox": ("tiatoolbox",),
    "fastai": ("fastai", "timm"),
    "keras": ("tensorflow-cpu", "pandas", "pillow", "scipy"),
}
"""What the environment of each peer holds."""
ON_TORCH = ("tiatoolbox", "fastai")
"""Peers that run on torch: on that of our own version."""
WHOLE = ".whole"
"""An empty file that says that an installation has ended well."""


def home_of(peer: str, homes: Path = HOME) -> Path:
    """Return the environment of a peer, made now where there is no whole one.

    Raises subprocess.CalledProcessError where pip fails, as it does without a network, and PackageNotFoundError where our own
    environment has no torchvision, whose version the peer's is to have.
    """
    environment = homes / peer
    if not (environment / WHOLE).exists():
        print(f"== installing {peer} for the benchmark alone", flush=True)
        if peer in ON_TORCH:
            install_beside_our_torch(environment, *PACKAGES[peer])
        else:
            install(environment, PACKAGES[peer])
        (environment / WHOLE).touch()
    return environment


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    windows = environment / "Scripts" / "python.exe"
    return windows if windows.exists() else environment / "bin" / "python"


def install(environment: Path, packages: Sequence[str]) -> None:
    """Make an environment that holds `packages`."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(python_of(environment)), "-m", "pip", "install", "--quiet", *packages], check=True)


def install_beside_our_torch(environment: Path, *packages: str) -> None:
    """Make an environment that holds `packages` with all that they ask for, but for torch and torchvision, which are as ours.

    A package may ask for an older torch than ours; both sides then still run the same kernels.
    """
    ours = ("torch", "torchvision")
    install(environment, [f"{name}=={version(name).partition('+')[0]}" for name in ours])
    pip = [str(python_of(environment)), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", *packages], check=True)
    code = "import sys; from importlib.metadata import requires; [print(*requires(p) or [], sep='\\n') for p in sys.argv[1:]]"
    told = subprocess.run([str(python_of(environment)), "-c", code, *packages], check=True, capture_output=True, text=True).stdout
    wanted = [line for line in told.splitlines() if re.split(r"[^A-Za-z0-9_.-]", line)[0] not in ours and "extra ==" not in line]
    subprocess.run([*pip, *wanted], check=True)

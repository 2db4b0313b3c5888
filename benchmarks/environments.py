"""Environments of peers whose packages do not go with ours."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    windows = environment / "Scripts" / "python.exe"
    return windows if windows.exists() else environment / "bin" / "python"


def install(environment: Path, packages: Sequence[str]) -> None:
    """Make an environment that holds `packages`."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(python_of(environment)), "-m", "pip", "install", "--quiet", *packages], check=True)

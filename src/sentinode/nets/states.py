"""Weight files as tensors by name: safetensors, or what `torch.save` wrote, read without running anything that lies in it."""

import re
import struct
import warnings
from _pickle import UnpicklingError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sentinode.errors import RunProblem, shown

State = dict[str, Tensor]
"""Tensors by name."""
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "teacher",
    "module",
    "backbone",
    "network",
    "net",
    "weights",
)
"""Names under which training programs keep a state dict among other things, the first that is there taken."""
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    AssertionError,
    ImportError,
    UnpicklingError,
    struct.error,
    SafetensorError,
)
"""What the two readers say of bytes that are no weights: any of these, by where the damage lies."""


def read_state(path: str | Path) -> State:
    """Return the tensors of a .safetensors file, or of anything `torch.save` writes (.pth, .pt, .bin), on the CPU.

    Only tensors and plain containers are read (`weights_only=True`): a pickle that would run something is refused, not run.
    A dictionary that holds the weights beside other things (epoch, optimiser) gives the weights.

    Raises
    ------
    RunProblem
        If the file is missing, cut, of another kind, asks for more than tensors, or holds numbers that are not finite.
    """
    file = Path(path)
    safe = file.suffix == ".safetensors"
    if not file.is_file():
        raise RunProblem(f"a weight file at {shown(file)}", "no such file", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the dialect of a pickle, just before refusing it
            # One spelling of the call and no option to change it: `weights_only` is the law, and a test reads this line.
            found: Any = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        what = f"weights (.safetensors, or tensors that torch.save wrote) in {shown(file)}"
        raise RunProblem(what, told(error), "copy or download the file again, as .safetensors where there is one") from error
    state = unwrapped(found)
    if not state:
        raise RunProblem(f"tensors by name in {shown(file)}", f"{type(found).__name__} without any", "give a state dict")
    bad = next((name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()), None)
    if bad is not None:
        raise RunProblem(
            f"finite weights in {shown(file)}", f"NaN or infinity in {shown(bad)}", "use another copy of the weights"
        )
    return state


def unwrapped(found: Any) -> State:
    """Return the state dict in what was read: itself, or what lies under one of `WRAPPERS`; empty if there is none."""
    while isinstance(found, Mapping):
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            return {str(name): tensor.detach() for name, tensor in found.items() if isinstance(tensor, Tensor)}
        found = inner
    return {}


def told(error: BaseException) -> str:
    """Return why a file was not read, in one line."""
    if isinstance(error, EOFError) or "PytorchStreamReader" in str(error):  # what follows there is about the library's insides
        return "a file that is empty, cut or damaged"
    if not isinstance(error, UnpicklingError):
        return first_line(error)
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f"a pickle of more than tensors{f', which asks for {shown(asked[1])}' if asked else ''}: nothing in it was run"


def first_line(error: BaseException) -> str:
    """Return what a library said, in one bounded line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(text[0] if text else 'nothing more said', 160)}"

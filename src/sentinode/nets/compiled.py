"""A network with torch.compile: the same values, parameters and names, and what is said where it cannot be compiled."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sentinode.errors import MachineProblem, shown

MAKERS = ("torch._dynamo", "torch._inductor")
"""Modules whose errors are about compiling."""


def compiled(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that compiles itself when it is first called; copies of it do not.

    Dropout draws as it would: compiled code's own draws would be other ones, and several processes could not draw for each other.
    Raises MachineProblem where torch cannot compile at all; what else is missing comes out in the first call (`compile_problems`).
    """
    model = copy.deepcopy(model)
    try:
        model.compile(options={"fallback_random": True})
    except RuntimeError as error:  # of a Python for which torch cannot
        raise cannot(error) from error
    return model


@contextmanager
def compile_problems() -> Iterator[None]:
    """Turn what torch.compile says of a network into an error in three parts."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.startswith(MAKERS):
            raise cannot(error) from error
        raise


def cannot(error: Exception) -> MachineProblem:
    """Return what is said where compiling fails."""
    said = next((line for line in str(error).splitlines() if line.strip()), "")
    found = f"{type(error).__name__}: {shown(said, 160)}"
    return MachineProblem("a machine on which torch.compile works, with a C++ compiler", found, "leave --compile out")

"""Which tiles must stay together, and an order of names that looks random and that the order of rows has no part in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]
PSEUDO = "pseudo-"
"""Begins the name of a group that was guessed from the tiles (`audit` proposes such): it is no slide, and never passes for one."""


def seeded_keys(names: list[str], seed: int) -> list[bytes]:
    """Return a sort key for each name: the order looks random, is fixed by `seed`, and adding a name moves no other."""
    return [hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogatepass"), digest_size=16).digest() for name in names]


def joined_units(names: Sequence[str], same: Sequence[Codes]) -> Codes:
    """Return int64 [n] codes of the connected parts when rows of one name, and rows of one set of `same`, belong together.

    Codes are in the order of the smallest name of each part, so that the order of rows changes nothing.
    """
    known, codes = np.unique(np.array(list(names), dtype=str), return_inverse=True)
    parent = np.arange(len(known))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    for rows in same:
        roots = sorted({root(int(code)) for code in codes[rows]})
        parent[roots[1:]] = roots[0]
    whole = np.array([root(at) for at in range(len(parent))], dtype=np.int64)
    return np.unique(whole[codes], return_inverse=True)[1].astype(np.int64)


def is_pseudo(groups: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which group names [n] are pseudo-groups."""
    return np.asarray(np.char.startswith(np.asarray(groups).astype(str), PSEUDO), np.bool_)


def true_slides(groups: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Return group names [n] with "" for those that are pseudo-groups."""
    names = np.asarray(groups).astype(str)
    return np.where(is_pseudo(names), "", names)

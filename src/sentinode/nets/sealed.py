"""Files of tensors that know whether they are still what was written: a digest of all they hold lies in their header.

safetensors has none, and a flipped bit in a weight is a weight like any other. One entry of the header holds it, since several come
in any order and the same tensors must give the same bytes. Other programs read these files as ever.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

ENTRY = "sealed"
"""The header's entry."""


def sealed(tensors: Mapping[str, Tensor], note: str = "") -> bytes:
    """Return the bytes of a safetensors file with `tensors` and `note`, any text."""
    there = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(there, {ENTRY: json.dumps({"digest": digest_of(there, note), "note": note})})


def unsealed(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return tensors and note of the file at `path`; those of a file that was not sealed are taken as they are.

    Raises OSError, SafetensorError or ValueError for a file that cannot be read, or is not what was written.
    """
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(ENTRY)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if said is None:
        return tensors, ""
    entry = json.loads(said)
    if not isinstance(entry, dict) or digest_of(tensors, str(entry.get("note"))) != entry.get("digest"):
        raise ValueError("its contents are not what was written: a part has been changed")
    return tensors, entry["note"]


def digest_of(tensors: Mapping[str, Tensor], note: str) -> str:
    """Return XXH3, hex, of names, types, shapes and bytes of tensors on the CPU, and of the note."""
    whole = xxhash.xxh3_128(note.encode())
    for name in sorted(tensors):
        value = tensors[name]
        whole.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()

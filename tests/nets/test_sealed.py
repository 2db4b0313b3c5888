"""A sealed file gives back what was put in, the same bytes for the same tensors, and tells any byte that was changed or lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sentinode.nets.sealed import sealed, unsealed

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


def test_what_went_in_comes_out_and_other_programs_read_it_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sealed(TENSORS, "a note, ä"))
    tensors, note = unsealed(path)
    assert note == "a note, ä"
    for found in (tensors, load_file(path)):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_the_same_tensors_give_the_same_bytes_in_any_order() -> None:
    turned = dict(reversed(TENSORS.items()))
    assert len({sealed(TENSORS, "x"), sealed(turned, "x"), sealed(TENSORS, "x")}) == 1


def test_a_file_that_was_never_sealed_is_taken_as_it_is(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, note = unsealed(tmp_path / "a.safetensors")
    assert note == ""
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_every_flipped_bit_and_every_cut_is_told(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.safetensors", sealed(TENSORS, "a note")
    rng = np.random.default_rng(0)
    data = int.from_bytes(whole[:8], "little") + 8
    for at in [*rng.integers(0, len(whole), 150).tolist(), *range(data, len(whole))]:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        if at >= data:
            with pytest.raises(ValueError, match="not what was written"):
                unsealed(path)
            continue
        try:
            tensors, note = unsealed(path)
        except (SafetensorError, ValueError, KeyError, TypeError):
            continue
        # In the header a bit may change that says nothing: what is read is then what was written, or a file without a seal.
        assert note in {"a note", ""}
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS if name in tensors)
    for length in (0, 7, data - 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises((SafetensorError, ValueError)):
            unsealed(path)

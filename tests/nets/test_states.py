"""Weight files: what was saved is what is read, and nothing that lies in a file runs."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sentinode.errors import RunProblem
from sentinode.nets.states import WRAPPERS, read_state

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn.num_batches_tracked": torch.tensor(7)}


class Payload:
    """Runs a command of the shell when unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["", *WRAPPERS])
def test_torch_files_of_either_format_give_their_tensors(tmp_path: Path, wrapper: str, zipped: bool) -> None:
    content = {wrapper: STATE, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else STATE
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_state(tmp_path / "w.pth"))


def test_wrappers_in_wrappers(tmp_path: Path) -> None:
    torch.save({"teacher": {"backbone": STATE}, "queue": torch.zeros(3)}, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"))


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(read_state(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy", "beside"])
def test_a_file_that_would_run_something_is_refused_and_does_not(tmp_path: Path, kind: str, name: str) -> None:
    file, payload = tmp_path / name, Payload(tmp_path / "proof")
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"conv.weight": payload}))
    else:
        content = {**STATE, "x": payload} if kind == "beside" else {"state_dict": payload}
        torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(RunProblem, match=r"expected weights .*; found .*; copy or download the file again") as caught:
        read_state(file)
    assert name == "w.safetensors" or "nothing in it was run" in caught.value.found
    assert not (tmp_path / "proof").exists()
    if name != "w.safetensors":
        pickle.loads(pickle.dumps(payload))  # noqa: S301
        assert (tmp_path / "proof").exists()  # the same payload does run where pickles do


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.99))
def test_a_cut_file_is_told(tmp_path_factory: pytest.TempPathFactory, kind: str, share: float) -> None:
    file = tmp_path_factory.mktemp("cut") / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(STATE, file)
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RunProblem, match=r"expected weights .*; found .*; copy or download the file again"):
        read_state(file)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_cut_torch_file_is_called_one(tmp_path: Path, share: float) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RunProblem, match=r"found a file that is empty, cut or damaged; copy or download"):
        read_state(tmp_path / "w.pth")


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(["w.pth", "w.safetensors"]))
def test_any_other_bytes_are_told(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    file = tmp_path_factory.mktemp("bytes") / name
    file.write_bytes(content)
    with pytest.raises(RunProblem):
        read_state(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, r"tensors by name in .*; found dict without any; give a state dict"),
        ([1, 2], r"tensors by name in .*; found list without any"),
        ({"w": torch.tensor([1.0, float("nan")])}, r"finite weights in .*; found NaN or infinity in 'w'; use another copy"),
    ],
)
def test_files_without_usable_weights_are_told(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(RunProblem, match=message):
        read_state(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"expected a weight file at .*; found no such file; check the path"):
        read_state(tmp_path / "w.pth")

"""The command line: it starts light, answers in one line, and ends with the exit code that was promised."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import sentinode
from sentinode.cli import app, main
from sentinode.tiles.synth import synthesise, write_kaggle_folder

VERBS = {
    "quickstart",
    "pack",
    "info",
    "audit",
    "compare",
    "crossvalidate",
    "doctor",
    "models",
    "train",
    "tune",
    "ladder",
    "predict",
    "evaluate",
    "export",
}
HEAVY = {"torch", "pandas", "sklearn", "matplotlib", "numpy", "PIL", "pyarrow"}


def run(*words: str) -> int:
    """Return the exit code of a command line in this process."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "kaggle"
    write_kaggle_folder(folder, synthesise(3, 8, px=32, seed=1), n_unlabelled=4)
    return folder


@pytest.mark.parametrize("code", ["import sentinode; dir(sentinode)", "from sentinode.cli import main; main(['--help'])"])
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    ask = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit:\n    pass\nprint(sorted(set(sys.modules) & {HEAVY!r}))"
    out = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_every_verb_is_a_function_of_the_same_name_with_help() -> None:
    verbs = {name for name in app if not name.startswith("-")}
    assert verbs == VERBS
    for verb in verbs:
        assert callable(getattr(sentinode, verb))
        assert app[verb].help


def test_every_public_name_exists() -> None:
    for name in sentinode.HOMES:
        assert getattr(sentinode, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = sentinode.trian


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_every_verb_ends_well(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    assert "--quiet" in capsys.readouterr().out


def test_pack_info_and_json(kaggle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "s.store")
    assert run("pack", str(kaggle), "--out", store, "--groups", str(kaggle / "slides.csv"), "--quiet") == 0
    capsys.readouterr()
    assert run("info", store, "--verify", "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 20  # four are in test/
    assert run("info", store) == 0
    assert "20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["info", "nowhere.store"], 3, "expected a store at 'nowhere.store'; found"),
        (["train", "nowhere.store", "--out", "x"], 3, "expected a store at 'nowhere.store'; found"),
        (["trian", "x"], 2, "train"),
        (["train", "x", "--out", "y", "--epohcs", "3"], 2, "--epochs"),
        (["train", "x", "--out", "y", "--epochs", "many"], 2, "many"),
        (["train", "x"], 2, "--out"),
        (["tune", "nowhere.store", "--out", "x", "--grid", "lr=1,2"], 3, "expected a store at 'nowhere.store'; found"),
        (["tune", "x", "--out", "y", "--grid", "learning-rate=1"], 2, "found 'learning_rate'"),
        (["tune", "x", "--out", "y", "--grid", "batch=32,many"], 2, "expected int for batch; found 'many'"),
        (["tune", "x", "--out", "y"], 2, "expected --grid or --trials; found neither"),
        (["predict", "run", "--out", "x.csv"], 2, "at least one run"),
        (["predict", "run", "tiles", "--out", "x.txt"], 2, "ends in .csv or .parquet"),
        (["audit", "nowhere.store", "--out", "x"], 3, "expected a store at 'nowhere.store'; found"),
        (["audit", "x", "--out", "y", "--queue", "7"], 2, "expected a share from 0 to 1 for the queue; found '7"),
        (["export", "nowhere", "--to", "onnx"], 3, "expected a run folder at 'nowhere'"),
        (["export", "run", "--to", "onx"], 2, "onnx"),
        (["export", "run", "--to", "onnx", "--out", "x.pt"], 2, "ends in .onnx"),
        (["train", "x", "--out", "y", "--recipe", "nowhere.toml"], 2, "expected a TOML recipe"),
    ],
)
def test_errors_are_one_line_and_a_promised_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == code
    told = capsys.readouterr().err
    assert told.startswith("sentinode: ")
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


class Payload:
    """Runs when unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def stocked(kaggle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store and weights of many kinds."""
    import torch

    from sentinode.nets.backbone import timm_module

    folder, timm = tmp_path_factory.mktemp("stocked"), timm_module()
    sentinode.pack(kaggle, out=folder / "s.store", quiet=True)
    resnet = timm.create_model("test_resnet")
    timm.models.save_for_hf(resnet, folder / "saved", safe_serialization=True)
    torch.save(resnet.state_dict(), folder / "resnet.pth")
    whole = (folder / "resnet.pth").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": Payload(folder / "proof")}, folder / "odd.pth")
    (folder / "plain.pth").write_bytes(pickle.dumps(Payload(folder / "proof")))
    return folder


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "resnet5O"], 2, "found 'resnet5O'; did you mean resnet50"),
        (
            ["--model", "test_efficientnet", "--weights", "saved"],
            3,
            "expected weights of 'test_efficientnet'; found those of 'test_re",
        ),
        (["--model", "test_efficientnet", "--weights", "resnet.pth"], 3, "expected weights of test_efficientnet ("),
        (
            ["--model", "test_resnet", "--weights", "cut.pth"],
            3,
            "expected weights (.safetensors, or tensors that torch.save wrote) in",
        ),
        (["--model", "test_resnet", "--weights", "odd.pth"], 3, "nothing in it was run"),
        (["--model", "test_resnet", "--weights", "plain.pth"], 3, "nothing in it was run"),
        (["--model", "test_resnet", "--weights", "lost.pth"], 2, "expected a weight file, or a folder of one, at 'lost.pth'"),
        (
            ["--model", "test_vit", "--weights", "none", "--input-size", "100"],
            2,
            "found 100 ('no multiple of 16'); use --input-size",
        ),
        (
            ["--model", "test_resnet", "--weights", "none", "--input-size", "1"],
            2,
            "expected input_size of 0 or at least 8; found 1;",
        ),
        (["--minutes", "5", "--sample", "50%"], 2, "found 50%; leave --sample or --minutes out"),
        (["--model", "test_resnet", "--weights", "none", "without timm"], 5, "pip install 'sentinode[backbones]'"),
    ],
)
@pytest.mark.parametrize("backbone", ["frozen", "finetune"])
def test_what_a_pretrained_network_can_be_asked_wrongly_is_one_line_and_leaves_nothing(
    words: list[str],
    code: int,
    message: str,
    backbone: str,
    stocked: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if backbone == "finetune" and words[0] == "--minutes":
        pytest.skip("it is trained by the clock")
    monkeypatch.chdir(stocked)
    if "without timm" in words:
        monkeypatch.setitem(sys.modules, "timm", None)
    there = sorted(stocked.rglob("*"))
    assert run("train", "s.store", "--out", "run", "--backbone", backbone, *(word for word in words if word[0] != "w")) == code
    told = capsys.readouterr().err
    assert told.startswith("sentinode: expected ")
    assert message in told
    assert len(told.splitlines()) == 1
    assert sorted(stocked.rglob("*")) == there


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(sentinode.SentinodeError):
        main(["info", str(tmp_path / "nowhere.store"), "--debug"])


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sentinode.flows.doctor.doctor", interrupted)
    assert run("doctor") == 130
    told = capsys.readouterr().err
    assert "interrupted" in told
    assert "--resume" in told


def test_a_machine_without_memory_ends_with_5_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def large(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8.00 PiB for an array")

    monkeypatch.setattr("sentinode.flows.doctor.doctor", large)
    assert run("doctor") == 5
    told = capsys.readouterr().err
    assert told.startswith("sentinode: expected memory enough for the work; found 8.00 PiB asked for at once (")
    assert len(told.splitlines()) == 1


def test_a_recipe_fills_what_was_not_typed(kaggle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, recipe = str(tmp_path / "s.store"), tmp_path / "recipe.toml"
    recipe.write_text('epochs = 1\nprecision = "fp32"\nlr = 0.01\ndihedral = false\n', "utf-8")
    assert run("pack", str(kaggle), "--out", store, "--groups", str(kaggle / "slides.csv"), "--quiet") == 0
    capsys.readouterr()
    words = ("train", store, "--out", str(tmp_path / "run"), "--recipe", str(recipe), "--lr", "0.02", "--quiet", "--json")
    assert run(*words) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["epochs"], settings["lr"], settings["dihedral"], settings["batch"]) == (1, 0.02, False, 64)


def test_quiet_is_quiet_and_json_is_one_value(kaggle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, trained, slides = str(tmp_path / "s.store"), str(tmp_path / "run"), str(kaggle / "slides.csv")
    for words in (
        ("pack", str(kaggle), "--out", store, "--groups", slides),
        ("info", store, "--verify"),
        ("train", store, "--out", trained, "--epochs", "1"),
        ("predict", trained, str(kaggle), "--submission", "--out", str(tmp_path / "s.csv")),
        ("evaluate", trained, store, "--resamples", "100", "--out", str(tmp_path / "judged")),
    ):
        assert run(*words, "--quiet", "--json") == 0
        told = capsys.readouterr()
        assert told.err == "", words
        assert isinstance(json.loads(told.out), dict)


def test_an_unknown_name_in_a_recipe_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("learning = 1\n", "utf-8")
    assert run("train", "x", "--out", "y", "--recipe", str(recipe)) == 2
    assert "found 'learning'" in capsys.readouterr().err

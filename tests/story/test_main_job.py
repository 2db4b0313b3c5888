"""The main job from a folder of tiles to a submission, as a person types it: it works, repeats, survives Ctrl-C, stays brief."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from sentinode.cli import main
from sentinode.progress import WIDEST
from sentinode.scores import read_scores
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST = ("--precision", "fp32", "--batch", "16", "--threads", "1", "--lr", "0.01")
COMMAND = "import sys; from sentinode.cli import main; main(sys.argv[1:])"


class Place(NamedTuple):
    """Two Kaggle folders of other slides and their stores, under names with spaces and letters of other scripts."""

    kaggle: Path
    train: Path
    test: Path


def sentinode(*words: object) -> int:
    """Return the exit code of a command line in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("main") / "Gewebe 組織 (é)"
    write_kaggle_folder(folder / "Kaggle Ordner", synthesise(6, 16, px=32, difficulty=0.0, seed=3), n_unlabelled=16)
    write_kaggle_folder(folder / "andere Schnitte", synthesise(4, 16, px=32, difficulty=0.0, seed=4))
    for name, store in (("Kaggle Ordner", "zum Lernen.store"), ("andere Schnitte", "zum Prüfen.store")):
        source = folder / name
        assert sentinode("pack", source, "--out", folder / store, "--groups", source / "slides.csv", "--quiet") == 0
    return Place(folder / "Kaggle Ordner", folder / "zum Lernen.store", folder / "zum Prüfen.store")


@pytest.fixture(scope="module")
def run(place: Place) -> Path:
    out = place.train.with_name("Lauf 1 é")
    assert sentinode("train", place.train, "--out", out, "--epochs", "4", *FAST, "--quiet") == 0
    return out


def test_what_was_packed_is_what_is_there(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentinode("info", place.train, "--verify", "--quiet", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 80
    tiles, rows = np.load(place.train / "tiles.npy"), pd.read_parquet(place.train / "rows.parquet")
    assert rows["id"].tolist() == [hashlib.sha1(tile.tobytes()).hexdigest() for tile in tiles]
    labels = pd.read_csv(place.kaggle / "train_labels.csv").merge(pd.read_csv(place.kaggle / "slides.csv"), on="id")
    joined = rows.merge(labels, on="id", suffixes=("", "_given"), validate="1:1")
    assert len(joined) == 80
    assert (joined["label"] == joined["label_given"]).all()
    assert (joined["group"] == joined["slide"]).all()


def test_a_changed_pixel_is_found(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.store"
    assert sentinode("pack", place.kaggle, "--out", out, "--quiet") == 0
    with (out / "tiles.npy").open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    capsys.readouterr()
    assert sentinode("info", out, "--verify", "--quiet") == 3
    assert capsys.readouterr().err.startswith("sentinode: expected ")


def test_other_slides_judge_the_run(place: Place, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Urteil é"
    assert sentinode("evaluate", run, place.test, "--out", out, "--resamples", "200", "--quiet", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "judgement.json").read_text("utf-8"))
    assert told["protocol"] == "other slides"
    assert not told["contaminated"]
    scores = pd.read_parquet(out / "scores.parquet")
    rows = pd.read_parquet(place.test / "rows.parquet").merge(scores, on="id", suffixes=("", "_scored"), validate="1:1")
    assert len(rows) == 64
    auroc = told["figures"]["auroc"]
    assert auroc["estimate"] == pytest.approx(roc_auc_score(rows["label"], rows["probability"]), abs=1e-12)
    assert auroc["low"] <= auroc["estimate"] <= auroc["high"]
    assert auroc["n_groups"] == 4


def test_tiles_that_trained_are_recognised(place: Place, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("evaluate", run, place.train, "--out", tmp_path / "j", "--resamples", "200", "--mistakes", "0", "--quiet", "--json")
    assert sentinode(*words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["contaminated"]
    assert told["protocol"] == "random tiles"


def test_the_submission_has_every_test_tile_once(place: Place, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "Abgabe é.csv"
    assert sentinode("predict", run, place.kaggle, "--out", out, "--submission", "--quiet") == 0
    table = pd.read_csv(out)
    assert list(table.columns) == ["id", "label"]
    assert sorted(table["id"]) == sorted(path.stem for path in (place.kaggle / "test").iterdir())
    assert table["label"].between(0, 1).all()


def test_a_strangers_table_is_judged_by_the_same_figures(
    place: Place, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our own probabilities in a stranger's columns and order give our own AUROC."""
    assert sentinode("predict", run, place.test, "--out", tmp_path / "ours.csv", "--quiet") == 0
    ours = read_scores(tmp_path / "ours.csv").table
    theirs = pd.DataFrame({"ID": ours["id"], "Score": expit(ours["logit"])}).sample(frac=1, random_state=0)
    theirs.to_csv(tmp_path / "von anderen.csv", index=False, sep=";")
    told = []
    for name in ("ours.csv", "von anderen.csv"):
        words = (
            "evaluate",
            tmp_path / name,
            place.test,
            "--out",
            tmp_path / f"{name}.d",
            "--mistakes",
            "0",
            "--resamples",
            "200",
            "--quiet",
            "--json",
        )
        capsys.readouterr()
        assert sentinode(*words) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["figures"]["auroc"]["estimate"] == pytest.approx(told[1]["figures"]["auroc"]["estimate"], abs=1e-12)
    assert told[1]["protocol"] == "unknown"


def test_the_same_seed_gives_the_same_scores_byte_for_byte(place: Place, run: Path, tmp_path: Path) -> None:
    assert sentinode("train", place.train, "--out", tmp_path / "again", "--epochs", "4", *FAST, "--quiet") == 0
    assert sentinode("train", place.train, "--out", tmp_path / "other", "--epochs", "4", "--seed", "1", *FAST, "--quiet") == 0
    written = []
    for number, folder in enumerate((run, tmp_path / "again", tmp_path / "other")):
        out = tmp_path / f"{number}.csv"
        assert sentinode("predict", folder, place.test, "--out", out, "--quiet") == 0
        written.append(out.read_bytes())
    assert written[0] == written[1] != written[2]


def test_off_a_terminal_a_run_prints_a_line_an_epoch(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentinode("train", place.train, "--out", tmp_path / "run", "--epochs", "5", *FAST) == 0
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert [line.split(":")[0] for line in lines if re.match(r"epoch \d", line)] == [f"epoch {n}/5" for n in range(1, 6)]
    assert len(lines) < 30
    assert max(map(len, lines)) <= WIDEST
    assert "\x1b" not in told.err + told.out
    assert "\r" not in told.err + told.out
    assert len(told.out.splitlines()) < 12


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console, this test included")
def test_ctrl_c_loses_nothing(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stop a run by Ctrl-C in the middle: it ends with 130 and one line, and --resume ends with an undisturbed run's bytes."""
    whole, stopped = tmp_path / "whole", tmp_path / "gestoppt é"
    words = ("train", place.train, "--epochs", "8", "--checkpoint-s", "0", *FAST)
    assert sentinode(*words, "--out", whole, "--quiet") == 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words), "--out", str(stopped)],
        env=environment,
        stderr=subprocess.PIPE,
    ) as child:
        state, deadline = stopped / "resume" / "state.safetensors", time.monotonic() + 120
        while not state.exists():
            assert child.poll() is None, "the run ended before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=120)[1].decode()
    assert child.returncode == 130
    assert "--resume goes on" in said
    assert said.splitlines()[-1].startswith("sentinode: interrupted")
    assert "Traceback" not in said
    assert not (stopped / "model.json").exists()
    assert sentinode(*words, "--out", stopped, "--quiet") == 2
    assert "add --resume" in capsys.readouterr().err
    assert sentinode("predict", stopped, place.test, "--out", tmp_path / "s.csv", "--quiet") == 3
    assert sentinode(*words, "--out", stopped, "--resume", "--quiet") == 0
    for name in ("model.safetensors", "model.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in stopped.iterdir()} == {path.name for path in whole.iterdir()}

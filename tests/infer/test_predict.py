"""`predict`: any input, one run or several, every view; what is written is what was computed, under the tile's own id."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from torch import Tensor, nn

from sentinode.errors import DataProblem, RunProblem, SourceProblem, StoreProblem, UsageProblem
from sentinode.fit.train import train
from sentinode.infer.predict import WORTH_S, measured, predict, score_store
from sentinode.machine.ranks import Ranks
from sentinode.nets.engine import Engine, named
from sentinode.nets.trained import load
from sentinode.scores import read_scores
from sentinode.settings import PredictSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.split import read_split
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.qc.stores import store_of

Tiles = npt.NDArray[np.uint8]


class Place(NamedTuple):
    """A Kaggle folder of 6 slides (16 tiles unlabelled), its store, and two runs on it."""

    kaggle: Path
    store: Store
    runs: list[Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("predict")
    write_kaggle_folder(folder / "kaggle", synthesise(6, 16, px=32, difficulty=0.0, seed=3), n_unlabelled=16)
    store = pack(folder / "kaggle", out=folder / "k.store", groups=str(folder / "kaggle" / "slides.csv"), quiet=True)
    runs = [folder / "run a", folder / "Läufe"]
    for seed, run in enumerate(runs):
        train(store, out=run, seed=seed, epochs=1, precision="fp32", batch=16, quiet=True)
    return Place(folder / "kaggle", store, runs)


def images(folder: Path, tiles: dict[str, Tiles]) -> Path:
    """Write tiles as PNG under the given ids."""
    folder.mkdir()
    for name, tile in tiles.items():
        Image.fromarray(np.ascontiguousarray(tile)).save(folder / f"{name}.png")
    return folder


def changed(run: Path, to: Path, **facts: Any) -> Path:
    """Copy a run and change its model.json."""
    shutil.copytree(run, to)
    values = json.loads((to / "model.json").read_text("utf-8"))
    (to / "model.json").write_text(json.dumps(values | facts), "utf-8")
    return to


def logits_of(place: Place, tmp_path: Path, **options: Any) -> npt.NDArray[np.float64]:
    out = tmp_path / "scores.parquet"
    scores = predict(place.runs[0], place.store.path, out=out, overwrite=True, quiet=True, **options)
    return scores.table["logit"].to_numpy()


def test_a_store_keeps_its_ids_labels_and_groups(place: Place, tmp_path: Path) -> None:
    scores = predict(place.runs[0], place.store.path, out=tmp_path / "s.parquet", quiet=True)
    assert list(scores.table.columns) == ["id", "group", "label", "logit", "probability"]
    for name in ("id", "group", "label"):
        assert scores.table[name].tolist() == place.store.rows[name].tolist()
    np.testing.assert_allclose(scores.table["probability"], expit(scores.table["logit"]), rtol=1e-12)
    pd.testing.assert_frame_equal(read_scores(tmp_path / "s.parquet").table, scores.table)
    assert scores.table["logit"].std() > 1e-4  # a constant would pass all of the above


def test_csv_and_parquet_say_the_same(place: Place, tmp_path: Path) -> None:
    for name in ("s.csv", "s.parquet"):
        predict(place.runs[0], place.store.path, out=tmp_path / name, quiet=True)
    one, two = read_scores(tmp_path / "s.csv"), read_scores(tmp_path / "s.parquet")
    assert one.header == two.header
    assert one.header["store"] == place.store.digest
    for name in ("id", "group", "label", "logit", "probability"):
        assert one.table[name].tolist() == two.table[name].tolist()


def test_a_tile_is_scored_under_its_own_id(place: Place, tmp_path: Path) -> None:
    """The folder holds the store's tiles in another order; each id has the store's logit."""
    whole = predict(place.runs[0], place.store.path, out=tmp_path / "s.csv", quiet=True).table
    some = [7, 3, 40]
    folder = images(tmp_path / "some", {f"{9 - i}-{place.store.rows['id'][i]}": place.store.tiles[i] for i in some})
    found = predict(place.runs[0], folder, out=tmp_path / "f.csv", quiet=True).table
    by_id = {name.split("-")[-1]: logit for name, logit in zip(found["id"], found["logit"], strict=True)}
    for i in some:
        assert by_id[whole["id"][i]] == pytest.approx(whole["logit"][i], abs=1e-5)
    assert set(found["label"]) == {-1}
    assert set(found["group"]) == {""}


def test_an_ensemble_is_the_mean_of_its_members_logits(place: Place, tmp_path: Path) -> None:
    alone = [predict(run, place.store.path, out=tmp_path / f"{n}.csv", quiet=True).table for n, run in enumerate(place.runs)]
    both = predict(*place.runs, place.store.path, out=tmp_path / "both.csv", quiet=True)
    mean = np.mean([table["logit"].to_numpy() for table in alone], axis=0)
    np.testing.assert_allclose(both.table["logit"], mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(both.table["probability"], expit(mean), rtol=1e-12)
    for number, table in enumerate(alone, 1):
        assert both.table[f"logit_{number}"].tolist() == table["logit"].tolist()
    assert not np.allclose(alone[0]["logit"], alone[1]["logit"])
    assert len(set(both.header["runs"])) == 2
    turned = predict(*place.runs[::-1], place.store.path, out=tmp_path / "turned.csv", quiet=True)
    assert turned.table["logit"].tolist() == both.table["logit"].tolist()


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_the_mean_over_turned_tiles(place: Place, tmp_path: Path, views: int) -> None:
    run, tiles = load(place.runs[0]), np.array(place.store.tiles)
    turns = [np.rot90(tiles, k, axes=(1, 2)) for k in range(4)]
    turns += [turn[:, :, ::-1] for turn in turns] if views == 8 else []
    expected = np.mean([run.logits(np.ascontiguousarray(turn)).astype(np.float64) for turn in turns], axis=0)
    np.testing.assert_allclose(logits_of(place, tmp_path, views=views), expected, atol=1e-5)


def test_eight_views_do_not_see_how_a_tile_lies(place: Place, tmp_path: Path) -> None:
    turned = {}
    for i in range(3):
        tile = np.array(place.store.tiles[i])
        for k in range(4):
            turned[f"{i} turned {k}"] = np.rot90(tile, k)
            turned[f"{i} mirrored {k}"] = np.rot90(tile[:, ::-1], k)
    folder = images(tmp_path / "turned", turned)
    spread = {}
    for views in (1, 8):
        table = predict(place.runs[0], folder, out=tmp_path / f"{views}.csv", views=views, quiet=True).table
        spread[views] = np.ptp(table["probability"].to_numpy().reshape(3, 8), axis=1)
    assert spread[8].max() < 1e-6
    assert spread[1].max() > 1e-4


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_does_not_change_a_score(place: Place, tmp_path: Path, batch: int) -> None:
    np.testing.assert_allclose(logits_of(place, tmp_path, batch=batch), logits_of(place, tmp_path), atol=1e-5)


def test_a_submission_is_what_kaggle_takes(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    scores = predict(place.runs[0], place.kaggle, out=out, submission=True, quiet=True)
    assert out.read_bytes().startswith(b"id,label\n")
    table = pd.read_csv(out, dtype={"id": str})
    assert set(table["id"]) == {path.stem for path in (place.kaggle / "test").iterdir()}
    assert table["id"].is_unique
    assert table["label"].dtype == np.float64
    assert table["label"].between(0, 1).all()
    assert table["label"].tolist() == scores.table["probability"].tolist()
    assert sorted(path.name for path in place.kaggle.iterdir()) == ["slides.csv", "test", "train", "train_labels.csv"]


def test_without_submission_a_kaggle_folder_is_its_training_tiles(place: Place, tmp_path: Path) -> None:
    scores = predict(place.runs[0], place.kaggle, out=tmp_path / "s.csv", quiet=True)
    assert set(scores.table["id"]) == {path.stem for path in (place.kaggle / "train").iterdir()}


def test_a_submission_that_would_lack_tiles_is_refused(place: Place, tmp_path: Path) -> None:
    """Kaggle takes all ids or none: a file that cannot be read must not just be missing from the table."""
    folder = images(tmp_path / "some", {f"t{i}": place.store.tiles[i] for i in range(3)})
    (folder / "cut.png").write_bytes((folder / "t0.png").read_bytes()[:200])
    with pytest.raises(SourceProblem, match=r"expected every tile of '.*some'.*found 1 .*'cut.png'"):
        predict(place.runs[0], folder, out=tmp_path / "s.csv", submission=True, quiet=True)
    assert not (tmp_path / "s.csv").exists()
    assert len(predict(place.runs[0], folder, out=tmp_path / "s.csv", quiet=True)) == 3


def test_ids_that_are_formulas_or_of_any_script_come_back_as_they_were(place: Place, tmp_path: Path) -> None:
    names = ["=1+1", "+2", "-3", "@sum", "'quoted", "名前 é ü", "a,b;c", "NA", "007"]
    folder = images(tmp_path / "Gewebe, schräg 組織", {name: place.store.tiles[i] for i, name in enumerate(names)})
    out = tmp_path / "Ergebnis é 1.csv"
    scores = predict(place.runs[0], folder, out=out, quiet=True)
    assert sorted(scores.table["id"]) == sorted(names)
    back = read_scores(out).table
    assert back["id"].tolist() == scores.table["id"].tolist()
    assert back["logit"].tolist() == scores.table["logit"].tolist()
    cells = [row[0] for row in csv.reader(out.read_text("utf-8").splitlines()[2:])]
    assert len(cells) == len(names)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_a_run_needs_only_its_weights_and_model_json(place: Place, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(place.runs[0] / name, bare / name)
    whole = predict(place.runs[0], place.store.path, out=tmp_path / "a.csv", quiet=True)
    alone = predict(bare, place.store.path, out=tmp_path / "b.csv", quiet=True)
    assert alone.table["logit"].tolist() == whole.table["logit"].tolist()


@pytest.mark.parametrize("form", ["folded fp32", "frozen fp32", "openvino fp32"])
@pytest.mark.parametrize("views", [1, 8])
def test_auto_computes_in_the_fastest_form_and_scores_as_fp32_does(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, views: int
) -> None:
    asked: list[int] = []

    def fastest(module: nn.Module, example: Tensor, *, tiles: int, worth_s: float) -> Engine:
        assert worth_s == WORTH_S
        asked.append(tiles)
        return named(form, module, example)

    monkeypatch.setattr("sentinode.infer.predict.fastest", fastest)
    how: dict[str, Any] = {"views": views, "batch": 12, "quiet": True}
    auto = predict(place.runs[0], place.store.path, out=tmp_path / "auto.csv", precision="auto", **how)
    plain = predict(place.runs[0], place.store.path, out=tmp_path / "plain.csv", precision="fp32", **how)
    assert asked == [80 * views]
    assert (auto.header["plan"]["arithmetic"], plain.header["plan"]["arithmetic"]) == ([form], ["eager fp32"])
    np.testing.assert_allclose(auto.table["logit"], plain.table["logit"], rtol=1e-4, atol=1e-4)


def test_little_work_is_left_to_plain_fp32_and_made_again_has_the_same_bytes(place: Place, tmp_path: Path) -> None:
    names = ("one.csv", "two.csv", "asked.csv")
    made = [predict(*place.runs, place.store.path, out=tmp_path / name, views=4, quiet=True) for name in names[:2]]
    asked = predict(*place.runs, place.store.path, out=tmp_path / names[2], views=4, precision="fp32", quiet=True)
    assert [one.header["plan"]["arithmetic"] for one in (*made, asked)] == [["eager fp32"] * 2] * 3
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert made[0].table["logit"].tolist() == asked.table["logit"].tolist()


def test_the_plan_is_told_with_reasons_and_kept_in_the_header(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    predict(*place.runs, place.store.path, out=tmp_path / "s.csv", threads=3, batch=48, precision="bf16")
    assert torch.get_num_threads() == threads, "as before"
    plan, told = read_scores(tmp_path / "s.csv").header["plan"], capsys.readouterr().err
    assert (plan["device"], plan["threads"], plan["batch"], plan["arithmetic"]) == ("cpu", 3, 48, ["eager bf16"] * 2)
    assert plan["reasons"]["threads"] == "asked for"
    assert plan["reasons"]["arithmetic"] == "asked for; then asked for"
    for name, why in plan["reasons"].items():
        if name != "arithmetic":
            assert f"  {name}: {plan[name]} ({why})" in told
    assert told.count("  arithmetic: eager bf16 (asked for)") == 2


def test_for_a_single_batch_nothing_is_measured(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Engine:
        raise AssertionError("it was measured")

    monkeypatch.setattr("sentinode.infer.predict.fastest", never)
    scores = predict(place.runs[0], place.store.path, out=tmp_path / "s.csv", batch=80, quiet=True)
    assert scores.header["plan"]["arithmetic"] == ["eager fp32"]
    assert scores.table["logit"].tolist() == logits_of(place, tmp_path, precision="fp32", batch=80).tolist()
    with pytest.raises(AssertionError, match="it was measured"):
        predict(place.runs[0], place.store.path, out=tmp_path / "t.csv", batch=79, quiet=True)


@pytest.mark.parametrize("most", [40, 1])
def test_where_memory_is_too_small_for_a_batch_the_form_is_chosen_with_fewer_tiles(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    tried: list[int] = []

    def fastest(module: nn.Module, example: Tensor, **_: Any) -> Engine:
        tried.append(len(example))
        if len(example) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB")
        return named("eager fp32", module, example)

    monkeypatch.setattr("sentinode.infer.predict.fastest", fastest)
    monkeypatch.setattr("sentinode.infer.predict.TRIALS", 1)
    scores = predict(place.runs[0], place.store.path, out=tmp_path / "s.csv", batch=64, quiet=True)
    assert tried == [64 >> k for k in range(len(tried))]
    assert tried[-1] <= most
    plan = scores.header["plan"]
    assert (plan["batch"], plan["reasons"]["batch"]) == (tried[-1], "memory is too small for 64 at a time")
    np.testing.assert_allclose(scores.table["logit"], logits_of(place, tmp_path, precision="fp32"), rtol=1e-5, atol=1e-5)


def test_where_a_process_cannot_make_the_form_all_compute_in_plain_fp32(place: Place) -> None:
    class Second(Ranks):
        """The second of two processes; the first has chosen a form that is unknown here."""

        def told(self, value: Any) -> Any:
            return value or "openvino fp99"

        def total(self, number: float) -> float:
            return number

    settings = PredictSettings(batch=16)
    engine, batch = measured(load(place.runs[0]), place.store, settings, Second(rank=1, world=2))
    assert (engine.name, batch) == ("eager fp32", 16)
    assert engine.reasons == "a process of this job cannot make openvino fp99"


def test_scores_in_whole_numbers_do_not_depend_on_the_order_of_the_tiles(place: Place, tmp_path: Path) -> None:
    names = place.store.rows["id"].tolist()
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = store_of(
        tmp_path / "shuffled.store",
        place.store.tiles[order],
        place.store.rows["label"].to_numpy()[order],
        ids=[names[i] for i in order],
    )
    how: dict[str, Any] = {"precision": "int8", "quiet": True}
    one = predict(place.runs[0], place.store.path, out=tmp_path / "one.csv", batch=64, **how)
    other = predict(place.runs[0], shuffled.path, out=tmp_path / "other.csv", batch=24, **how)
    assert one.header["plan"]["arithmetic"] == ["openvino int8"]
    wanted = dict(zip(one.table["id"], one.table["logit"], strict=True))
    assert dict(zip(other.table["id"], other.table["logit"], strict=True)) == pytest.approx(wanted, abs=1e-6)
    plain = logits_of(place, tmp_path)
    assert 0 < np.abs(one.table["logit"].to_numpy() - plain).max() < plain.std()


def test_too_few_tiles_for_whole_numbers_are_told(place: Place, tmp_path: Path) -> None:
    few = store_of(tmp_path / "few.store", place.store.tiles[:63], place.store.rows["label"].to_numpy()[:63])
    with pytest.raises(
        UsageProblem, match=r"expected at least 64 different tiles to calibrate precision int8 .*; found 63 tiles; .*--precision"
    ):
        predict(place.runs[0], few.path, out=tmp_path / "s.csv", precision="int8", quiet=True)


def test_an_existing_file_is_kept_unless_told(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    out.write_text("mine", "utf-8")
    with pytest.raises(UsageProblem, match=r"expected a new file for .*; found one that exists; .*--overwrite"):
        predict(place.runs[0], place.store.path, out=out, quiet=True)
    assert out.read_text("utf-8") == "mine"
    predict(place.runs[0], place.store.path, out=out, overwrite=True, quiet=True)
    assert len(read_scores(out)) == 80


def test_a_folder_in_the_way_of_out_is_told(place: Place, tmp_path: Path) -> None:
    (tmp_path / "s.csv").mkdir()
    with pytest.raises(UsageProblem, match=r"found a folder"):
        predict(place.runs[0], place.store.path, out=tmp_path / "s.csv", overwrite=True, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 3}, r"expected 1 or 4 or 8 for views; found '3'"),
        ({"batch": 0}, r"batch of at least 1; found 0; change --batch"),
        ({"threads": -1}, r"threads of at least 0; found -1; change --threads"),
        ({"precision": "int4"}, r"precision; found 'int4'"),
        ({"vews": 8}, r"found 'vews'; did you mean views"),
    ],
)
def test_settings_that_cannot_be_meant_are_told(place: Place, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        predict(place.runs[0], place.store.path, out=tmp_path / "s.csv", quiet=True, **options)


@pytest.mark.parametrize("name", ["scores", "scores.txt", "scores.CSV.gz"])
def test_the_ending_of_out_must_be_known(place: Place, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageProblem, match=r"--out that ends in .csv or .parquet; found 'scores.*change the ending"):
        predict(place.runs[0], place.store.path, out=tmp_path / name, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_submission_is_csv(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"expected --out that ends in .csv; found 'submission.parquet'"):
        predict(place.runs[0], place.kaggle, out=tmp_path / "submission.parquet", submission=True, quiet=True)


def test_tiles_of_another_size_are_refused(place: Place, tmp_path: Path) -> None:
    other = changed(place.runs[0], tmp_path / "other", px=48)
    with pytest.raises(RunProblem, match=r"expected tiles of 48 px, as the run was trained on; found 32 px; pack with --px 48"):
        predict(other, place.store.path, out=tmp_path / "s.csv", quiet=True)


def test_an_empty_store_is_refused(place: Place, tmp_path: Path) -> None:
    empty = store_of(tmp_path / "empty.store", np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int8))
    with pytest.raises(StoreProblem, match=r"expected tiles in .*found an empty store; pack images"):
        predict(place.runs[0], empty.path, out=tmp_path / "s.csv", quiet=True)


def test_runs_of_different_classes_make_no_ensemble(place: Place, tmp_path: Path) -> None:
    other = changed(place.runs[0], tmp_path / "other", classes=["normal", "tumour"])
    with pytest.raises(RunProblem, match=r"expected runs of 32 px with classes.*found.*tumour.*same task"):
        predict(place.runs[1], other, place.store.path, out=tmp_path / "s.csv", quiet=True)


@pytest.mark.parametrize("name", ["nowhere", "k.store"])
def test_what_is_no_run_is_told(place: Place, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunProblem, match=rf"expected a run folder at '.*{name}'; found no model.json in it; name the --out"):
        predict(place.kaggle.parent / name, place.store.path, out=tmp_path / "s.csv", quiet=True)


def test_missing_inputs_are_told(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"at least one run and then tiles; found 1 inputs"):
        predict(place.store.path, out=tmp_path / "s.csv")
    with pytest.raises(DataProblem, match=r"found nothing"):
        predict(place.runs[0], tmp_path / "nowhere", out=tmp_path / "s.csv", quiet=True)


def test_score_store_is_predict_in_fp32_without_a_file(place: Place, tmp_path: Path) -> None:
    scores = score_store(place.runs, place.store, views=4, quiet=True)
    written = predict(*place.runs, place.store.path, out=tmp_path / "s.csv", views=4, precision="fp32", quiet=True)
    pd.testing.assert_frame_equal(scores.table, written.table)
    assert scores.header == {name: value for name, value in written.header.items() if name != "passport"}


def test_training_tiles_among_those_scored_are_named(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = read_split(place.runs[0] / "split.parquet")
    trained = place.store.tiles[split.rows_of("train")[:3]]
    known = images(
        tmp_path / "in", {"a": trained[0], "b": np.rot90(trained[1]), "new": synthesise(1, 1, px=32, seed=77).tiles[0]}
    )
    Image.fromarray(trained[2]).save(known / "c.jpg", quality=75)
    scores = predict(place.runs[0], known, out=tmp_path / "s.csv")
    passport = read_scores(tmp_path / "s.csv").header["passport"]
    assert passport == scores.header["passport"]
    assert {name: passport["examples"][name] for name in ("exact", "turned", "near")} == {
        "exact": ["a"],
        "turned": ["b"],
        "near": ["c"],
    }
    assert (
        "contaminated: 1 of 4 test tiles are re-encoded or slightly changed training tiles, such as 'c'"
        in capsys.readouterr().err
    )
    shutil.copytree(place.runs[0], tmp_path / "bare")
    (tmp_path / "bare" / "split.parquet").unlink()
    assert "passport" not in predict(tmp_path / "bare", known, out=tmp_path / "t.csv", quiet=True).header

"""What minutes decide: only what was left open, by measured rates, the same again when the run goes on."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sentinode
from sentinode.errors import UsageProblem
from sentinode.fit import pick as picking
from sentinode.fit.parts import Parts, choose_parts, fewer
from sentinode.fit.pick import candidates, left_open, pick
from sentinode.fit.train import train
from sentinode.machine.clock import Costs, Picked
from sentinode.machine.plan import Plan
from sentinode.settings import PRETRAINED, TrainSettings, resolved
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise

FAST: dict[str, Any] = {"precision": "fp32", "batch": 16, "quiet": True}
CNN = Costs(step=0.16, batch=64, validate=0.0008, last=0.002, digest=0.0001, record=4.0)
FROZEN = Costs(step=1e-9, batch=1, validate=0.0, last=0.01, digest=0.0001, record=4.0, features=0.004, before=6.0)
TUNED = Costs(step=0.64, batch=64, validate=0.004, last=0.01, digest=0.0001, record=4.0, features=0.004, exact=0.01, before=6.0)


def tissue_store() -> Store:
    tissue = synthesise(6, 16, px=32, difficulty=0.0, seed=3)
    return store_of(tissue.tiles, tissue.labels, tissue.groups)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {"network", "input_size", "sample"}),
        ({"model": "p4m-cnn"}, {"input_size", "sample"}),
        ({"backbone": "finetune"}, {"input_size", "sample"}),
        ({"backbone": "finetune", "input_size": 128}, {"sample"}),
        ({"lr": 1e-3}, {"input_size", "sample"}),
        ({"batch": 32, "sample": "5%"}, set()),
        ({"backbone": "frozen"}, {"input_size", "sample"}),
        ({"backbone": "frozen", "sample": "5%"}, set()),
        ({"sample": "100%"}, {"network", "input_size"}),
        ({"input_size": 96}, {"network", "sample"}),
        ({"minutes": None}, set()),
    ],
)
def test_only_what_was_left_open_is_decided(options: dict[str, Any], found: set[str]) -> None:
    given = TrainSettings(**{"minutes": 2.0} | options)
    assert left_open(given) == found
    assert not left_open(resolved(given)), "of resolved settings, as ladders and folds have them, nothing is"


def test_without_weights_on_this_machine_nothing_is_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.fit.pick.package_file", lambda _: None)
    ((settings, why),) = candidates(TrainSettings(minutes=1.0), frozenset({"network"}))
    assert (settings.model, settings.backbone) == ("simple-cnn", "scratch")
    assert "sentinode[backbones]" in why


def test_a_cpu_does_not_even_try_to_fine_tune_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.fit.pick.package_file", lambda _: Path("here"))
    monkeypatch.setattr("sentinode.fit.pick.find_spec", lambda _: object())
    tried = {
        minutes: [
            settings.backbone for settings, _ in candidates(TrainSettings(minutes=minutes, device="cpu"), frozenset({"network"}))
        ]
        for minutes in (1.0, 2.0)
    }
    assert tried == {1.0: ["frozen", "scratch"], 2.0: ["finetune", "frozen", "scratch"]}


@pytest.mark.parametrize("wish", [{"precision": "bf16"}, {"precision": "tf32"}, {"compile": "yes"}])
def test_a_wish_that_a_frozen_backbone_refuses_leaves_it_out_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    monkeypatch.setattr("sentinode.fit.pick.package_file", lambda _: Path("here"))
    monkeypatch.setattr("sentinode.fit.pick.find_spec", lambda _: object())
    given = TrainSettings(minutes=5.0, device="cpu", **wish)
    assert [settings.backbone for settings, _ in candidates(given, left_open(given))] == ["finetune", "scratch"]


def picked(monkeypatch: pytest.MonkeyPatch, n: int, spent: float = 0.0, **options: Any) -> Picked:
    """Return what is picked of `n` tiles by the rates above, `spent` seconds after the start."""
    labels = (np.arange(n) % 2).astype(np.int8)
    rng = np.random.default_rng(0)
    parts = choose_parts(
        store_of(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), labels), None, TrainSettings(split="random")
    )

    def started(settings: TrainSettings, _: Parts) -> tuple[Any, Any]:
        px = settings.input_size or (160 if settings.backbone == "finetune" else 0)
        return None, SimpleNamespace(preprocessing=SimpleNamespace(input_px=px))

    monkeypatch.setattr(picking, "start", started)
    monkeypatch.setattr(picking, "package_file", lambda _: Path("here"))
    monkeypatch.setattr(picking, "TUNING_MIN", 0.0)  # the rates above are those of no processor

    def rates(settings: TrainSettings, *_: Any) -> Costs:
        if settings.backbone == "frozen":
            return FROZEN
        return TUNED.at_size(settings.input_size or 160, of=160) if settings.backbone == "finetune" else CNN

    monkeypatch.setattr(picking, "quick_plan", lambda settings, *_: (Plan("cpu", "bf16", 32, 2, True), rates(settings).step))
    monkeypatch.setattr(picking, "measured", rates)
    given = TrainSettings(**{"split": "random"} | options)
    return pick(given, left_open(given), parts, time.perf_counter() - spent)


def test_with_time_the_pretrained_network_is_fine_tuned_on_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    found = picked(monkeypatch, 4000, minutes=20.0)
    assert found.changes == {"model": PRETRAINED, "backbone": "finetune", "sample": "100%"}
    assert "100 tiles/s by what was measured at 96 px" in found.reasons["sample"]


def test_with_less_it_sees_smaller_tiles_then_is_frozen_and_with_little_the_simple_cnn_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smaller = picked(monkeypatch, 4000, minutes=1.5)
    assert smaller.changes["backbone"] == "finetune"
    assert smaller.changes["input_size"] in {96, 128}
    assert ("were measured" in smaller.reasons["sample"]) == (smaller.changes["input_size"] == 96)
    frozen = picked(monkeypatch, 4000, minutes=0.6)
    assert frozen.changes == {"model": PRETRAINED, "backbone": "frozen", "sample": "100%"}
    assert "fine-tuning does not fit into the time" in frozen.reasons["network"]
    assert "250 tiles/s were measured" in frozen.reasons["sample"]
    little = picked(monkeypatch, 4000, minutes=0.3)
    assert little.changes["model"] == "simple-cnn"
    assert "no pretrained network fits into the time" in little.reasons["network"]
    assert picked(monkeypatch, 4000, spent=75.0, minutes=1.5).changes["model"] == "simple-cnn", "what is spent is gone"


def test_a_frozen_backbone_follows_the_clock_by_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    found = picked(monkeypatch, 4000, minutes=0.3, backbone="frozen")
    # By hand: 0.985 * 18 s less 10 s that do not grow leave 7.73 s. A quarter goes to choosers of 0.0101 s, or 200: 2.02 s. The rest
    # is for tiles of 0.0041 s.
    assert int(found.changes["sample"]) == int((0.985 * 18 - 10 - 200 * 0.0101) / 0.0041)
    assert found.choosers == 200
    assert found.precision == "", "a form of the network is chosen when features are extracted"


def test_what_was_named_is_kept_however_short_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = picked(monkeypatch, 4000, minutes=1.0, backbone="finetune", input_size=160)
    assert found.changes["backbone"] == "finetune"
    assert "input_size" not in found.changes
    assert 200 <= int(found.changes["sample"]) < 3200
    found = picked(monkeypatch, 4000, minutes=1.0, sample="100%")
    assert found.changes["sample"] == "100%"


@pytest.mark.parametrize(
    ("wall", "cpu", "times"), [(4.0, 8.0, 1.0), (4.0, 1.0, 4.0), (0.01, 0.0, 1.0)], ids=["two", "shared", "none"]
)
def test_a_crowded_machine_is_known_by_how_little_of_it_we_got(wall: float, cpu: float, times: float) -> None:
    assert picking.crowding(wall, cpu) == times


def test_fewer_tiles_train_and_choose_classes_in_proportion() -> None:
    store = tissue_store()
    parts = choose_parts(store, None, TrainSettings(split="random"))
    few = fewer(parts, TrainSettings(split="random", sample="20"), 8)
    assert len(few.train[1]) in {20, 21}
    assert len(few.valid[1]) in {8, 9}
    for part in ("train", "valid"):
        assert set(getattr(few, part)[1]) < set(getattr(parts, part)[1])
        assert abs(few.labels(part).mean() - parts.labels(part).mean()) < 0.1
    assert fewer(parts, TrainSettings(split="random"), 0).split.table.equals(parts.split.table)


def test_a_run_with_minutes_keeps_what_was_decided_and_why(tmp_path: Path) -> None:
    """The same command opens it again; another sample than was picked is another run."""
    store, given = tissue_store(), dict[str, Any](minutes=0.1, quiet=True, precision="fp32")
    run = sentinode.train(store, out=tmp_path / "run", **given)
    assert run.record["settings"]["model"] == run.record["picked"]["changes"]["model"] == "simple-cnn"
    assert set(run.record["picked"]["reasons"]) >= {"network", "input_size", "sample", "epochs"}
    assert sentinode.train(store, out=tmp_path / "run", resume=True, **given).path == run.path
    assert (tmp_path / "run" / "auroc_so_far.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(UsageProblem, match=r"found sample '50%', not '100%'"):
        sentinode.train(store, out=tmp_path / "run", resume=True, **given, sample="50%")


def test_a_frozen_run_takes_the_tiles_that_it_has_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Picked({"sample": "40"}, 10, "", 1.0, 0.0, {"sample": "x"})
    monkeypatch.setattr("sentinode.fit.train.pick", lambda *_: chosen)
    given: dict[str, Any] = {"backbone": "frozen", "input_size": 32, "precision": "fp32", "minutes": 0.5, "quiet": True}
    run = sentinode.train(tissue_store(), out=tmp_path / "run", features=str(tmp_path / "features"), **given)
    assert run.record["settings"]["sample"] == "40"
    assert run.record["valid"]["n"] in {10, 11}
    assert (tmp_path / "run" / "auroc_so_far.svg").exists()


def test_a_resumed_run_is_not_decided_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, chosen = (
        tissue_store(),
        Picked({"model": "simple-cnn", "backbone": "scratch", "sample": "40"}, 10, "fp32", 1.0, 0.1, {"precision": "x"}),
    )
    given = FAST | {"minutes": 0.1}
    monkeypatch.setattr("sentinode.fit.train.pick", lambda *_: chosen)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("sentinode.fit.train.fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train(store, out=tmp_path / "run", **given)
    monkeypatch.setattr("sentinode.fit.train.pick", stop)
    run = train(store, out=tmp_path / "run", resume=True, **given)
    assert run.record["settings"]["sample"] == "40"
    assert run.record["valid"]["n"] in {10, 11}


def test_the_curve_so_far_never_falls_and_is_that_of_the_history(tmp_path: Path) -> None:
    run = train(tissue_store(), out=tmp_path / "run", epochs=5, **FAST)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    curve = run.record["cost"]["auroc_so_far"]
    for seconds, best in curve:
        assert best == pytest.approx(history.loc[history["seconds"] <= seconds, "valid_auroc"].max(), abs=1e-12)
    assert [best for _, best in curve] == sorted({best for _, best in curve})
    assert curve[-1][1] == pytest.approx(history["valid_auroc"].max())
    assert (history["seconds"].diff().dropna() > 0).all()

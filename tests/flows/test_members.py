"""The ensemble of the ladder: who may be a member, who is picked on valid, what is said of it, and what views do alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sentinode.flows.ladder import Ladder, ladder
from sentinode.flows.members import Ensemble, Member, against_best, chosen_members, facts_of_ensemble, member_of, weighed
from sentinode.flows.rungs import Climbed, Part, part_of, settings_of
from sentinode.judge.picking import pick_members
from sentinode.judge.statement import slides_of
from sentinode.nets.trained import load
from sentinode.scores import read_scores
from sentinode.settings import LadderSettings, TrainSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.pack import pack
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

Floats = npt.NDArray[np.float64]
FAST: dict[str, Any] = {
    "epochs": 1,
    "precision": "fp32",
    "batch": 16,
    "lr": 0.01,
    "resamples": 100,
    "study": False,
    "quiet": True,
}


def packed(folder: Path, name: str, seed: int) -> Path:
    write_kaggle_folder(folder / name, synthesise(8, 16, px=32, difficulty=0.3, seed=seed))
    return pack(folder / name, out=folder / f"{name}.store", groups=str(folder / name / "slides.csv"), quiet=True).path


def table(out: Path, name: str) -> Any:
    return read_scores(out / "scores" / f"{name}.parquet").table.set_index("id")


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ladder, Path]:
    folder = tmp_path_factory.mktemp("stores")
    first, other = packed(folder, "first", 3), packed(folder, "other", 4)
    return ladder(first, out=folder / "out", test=other, **FAST | {"rungs": "simple-cnn,p4m-cnn,ensemble"}), other


def test_members_are_picked_on_valid_and_averaged_over_views(climbed: tuple[Ladder, Path]) -> None:
    got, other = climbed
    valid = {name: table(got.out, f"{name}-valid-8-views") for name in ("simple-cnn", "p4m-cnn")}
    labels = valid["simple-cnn"]["label"].to_numpy()
    picked = pick_members(labels, {name: one["logit"].to_numpy() for name, one in valid.items()}).picked
    told = got.values["ensemble"]
    assert [row["name"] for row in told["candidates"] if row["picked"]] == list(picked)
    assert told["chosen_on"] == "valid"
    mean = sum(table(got.out, f"{name}-test-8-views")["logit"] for name in picked) / len(picked)
    assert np.abs(mean - table(got.out, "ensemble-test")["logit"]).max() < 1e-9
    run = load(got.out / "rungs" / "simple-cnn")
    seen = table(got.out, "simple-cnn-test-8-views")["logit"].to_numpy()
    assert np.abs(run.logits(open_store(other).tiles, views=8) - seen).max() < 1e-5


def test_its_cost_is_all_candidates_to_train_and_the_picked_to_keep(climbed: tuple[Ladder, Path]) -> None:
    got, _ = climbed
    first, second, last = got.values["rungs"]
    rows = {row["name"]: row for row in (first, second)}
    picked = [row["name"] for row in got.values["ensemble"]["candidates"] if row["picked"]]
    assert last["minutes"] == pytest.approx(first["minutes"] + second["minutes"])
    assert last["weights"] == sum(rows[name]["weights"] for name in picked)
    assert last["below"] == picked[0]
    assert last["notes"] == got.values["ensemble"]["notes"]


def climbed_with(name: str, parts: list[Part], one: list[Floats], views: list[Floats]) -> Climbed:
    both = [{part.name: values for part, values in zip(parts, of, strict=True)} for of in (one, views)]
    return Climbed(name, f"the {name}", both[0], 2.0, 1.0, 1.0, 1.0, 10, views=both[1], views_rate=4.0)


def made_of(worth: dict[str, float]) -> tuple[Ensemble, list[Part]]:
    """Return an ensemble of models that see the labels with unlike noise, better over views than at one."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    store = store_of(np.zeros((400, 8, 8, 3), np.uint8), labels.astype(np.int8), [str(at % 20) for at in range(400)])
    parts = [part_of("valid", store, np.arange(200), 100), part_of("test", store, np.arange(200, 400), 100)]

    def seen(noise: float) -> list[Floats]:
        return [2.0 * part.labels - 1 + rng.normal(0, noise, 200) for part in parts]

    candidates = [climbed_with(name, parts, seen(1.5 * noise), seen(noise)) for name, noise in worth.items()]
    picking = pick_members(parts[0].labels, {one.name: one.views["valid"] for one in candidates})
    members = [one for one in candidates if one.name in picking.picked]
    logits = {part.name: np.mean([one.views[part.name] for one in members], axis=0) for part in parts}
    rung = Climbed("ensemble", "ensemble", logits, 2.0 * len(candidates), 0.0, 1.0, 1.0, 10)
    return Ensemble(rung, tuple(candidates), picking), parts


def test_the_difference_is_to_the_best_member_over_the_same_views() -> None:
    made, parts = made_of({"a": 1.0, "b": 1.0, "noise": 30.0})
    told = facts_of_ensemble(made, parts, 100, 0)
    rows = {row["name"]: row for row in told["candidates"]}
    assert {name for name, row in rows.items() if row["picked"]} == {"a", "b"}
    best = told["candidates"][0]
    against = against_best(made, parts[1], 100, 0)
    labels = parts[1].labels
    from sklearn.metrics import roc_auc_score

    ensemble = roc_auc_score(labels, made.rung.logits["test"])
    assert against["difference"]["estimate"] == pytest.approx(ensemble - best["test"]["estimate"], abs=1e-12)
    assert against["below_title"] == f"{best['title']} over 8 views"
    alone = next(one for one in made.candidates if one.name == best["name"])
    gain = roc_auc_score(labels, alone.views["test"]) - roc_auc_score(labels, alone.logits["test"])
    assert told["views_alone"]["estimate"] == pytest.approx(gain, abs=1e-12)
    assert f"{gain:+.4f}" in told["notes"][-1]
    assert told["notes"][0].startswith("picked on valid: the ")
    assert "left out: the noise (the next best, the noise, would make it" in told["notes"][0]


def test_it_is_said_whether_fitted_weights_would_beat_the_plain_mean() -> None:
    made, parts = made_of({"a": 1.0, "b": 1.0, "noise": 30.0})
    told = facts_of_ensemble(made, parts, 100, 0)
    assert set(told["weights"]["weights"]) == {"the a", "the b"}, "of those picked"
    assert told["weights"]["by"] == "5 folds of slides"
    assert not told["weights"]["beats"], "two equally good members"
    assert told["notes"][1].startswith("fitted weights do not surely beat the plain mean out of slide: gain ")
    assert told["notes"][1].endswith(" of valid")
    alone, _ = made_of({"a": 0.5, "noise": 30.0})
    assert facts_of_ensemble(alone, parts, 100, 0)["weights"] is None


def test_where_weights_cannot_be_weighed_it_is_said_why() -> None:
    made, parts = made_of({"a": 1.0, "b": 1.0})
    one = Part("valid", parts[0].store, np.array([0, 1, 3, 5]), slides_of(np.full(4, "")))
    views = [np.array([-1.0, 1, 2, 3]), np.array([-1.1, 1, 2, 3])]
    members = [climbed_with(name, [one], [values], [values]) for name, values in zip("ab", views, strict=True)]
    found, said = weighed(Ensemble(made.rung, tuple(members), made.picking), one, 0)
    assert found is None
    assert said[0].startswith("whether fitted weights beat the plain mean is not told: 4 with 3 positive and 1 negative tiles; ")


def test_an_ensemble_of_one_is_told_as_one() -> None:
    made, parts = made_of({"a": 0.5, "noise": 30.0})
    told, against = facts_of_ensemble(made, parts, 100, 0), against_best(made, parts[1], 100, 0)
    assert told["notes"][0].startswith("nothing improves on the a (")
    assert (against["verdict"], "difference" in against) == ("alone", False)


def test_a_member_is_trained_as_the_fine_tuned_rung_but_for_network_size_and_weights() -> None:
    settings = LadderSettings(
        model="resnet50", weights="resnet50.safetensors", input_size=96, epochs=3, minutes=30.0, members="x@64,y"
    )
    first, second = chosen_members(settings, ("finetune", "ensemble"))
    rung = settings_of("finetune", settings, ["finetune", first.name, second.name])
    for member, px in ((first, 64), (second, 96)):
        its = member.settings(settings, ["finetune", first.name, second.name])
        differ = {one for one in vars(TrainSettings()) if getattr(its, one) != getattr(rung, one)}
        assert differ <= {"model", "weights", "input_size"}
        assert (its.model, its.weights, its.input_size) == (member.network, "auto", px)
        assert its.minutes == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("text", "member", "name"),
    [
        ("tf_efficientnet_lite2@128", Member("tf_efficientnet_lite2", 128), "finetune-tf_efficientnet_lite2-128"),
        ("resnet18.a1_in1k", Member("resnet18.a1_in1k", 0), "finetune-resnet18.a1_in1k"),
        ("hf-hub:owner/../name@main", Member("hf-hub:owner/../name@main", 0), "finetune-hf-hub-owner-..-name-main"),
        ("hf-hub:owner/name@224", Member("hf-hub:owner/name", 224), "finetune-hf-hub-owner-name-224"),
    ],
)
def test_a_member_is_a_name_and_perhaps_a_size_and_its_folder_is_a_plain_name(text: str, member: Member, name: str) -> None:
    assert member_of(text) == member
    assert member.name == name
    assert Path(member.name).name == member.name

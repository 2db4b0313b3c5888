"""The scaling mistake: what is changed is what is said, both heads are honest, and the sentence follows the numbers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from sentinode.flows import mistakes
from sentinode.flows.mistakes import OWN, STUDYS, answer_of, features_of, mistakes_of, span_of, studys_head
from sentinode.flows.rungs import Part, part_of
from sentinode.nets.transform import Preprocessing
from sentinode.progress import Progress
from sentinode.settings import LadderSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store

CAFFE = Preprocessing((0.485, 0.456, 0.406), (1 / 255, 1 / 255, 1 / 255), channels="bgr")
IMAGENET = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))


class Colours(nn.Module):
    """A network whose features are the mean input of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.one


def colourful(n: int = 60) -> Store:
    """Return flat tiles whose red says the class."""
    labels = (np.arange(n) % 2).astype(np.int8)
    tiles = np.random.default_rng(0).integers(0, 256, (n, 1, 1, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    tiles[..., 0] = np.where(labels == 1, 200, 100)[:, None, None]
    return store_of(tiles, labels, [str(number % 5) for number in range(n)])


def test_a_caffe_network_is_given_what_the_study_gave_it(tmp_path: Path) -> None:
    """The study: colours scaled by 1/255 and nothing else, in the order red, green, blue."""
    store = colourful(4)
    (_, wrong) = mistakes_of(CAFFE)[STUDYS]
    given = features_of(Colours(), wrong, store, np.arange(4), tmp_path)
    assert given == pytest.approx(store.tiles[:, 0, 0].astype(np.float64) / 255, abs=1e-6)
    right = features_of(Colours(), mistakes_of(CAFFE)[OWN][1], store, np.arange(4), tmp_path)
    caffe = store.tiles[:, 0, 0, ::-1].astype(np.float64) - np.array([0.406, 0.456, 0.485]) * 255
    assert right == pytest.approx(caffe, abs=1e-3)


def test_each_mistake_is_what_its_name_says() -> None:
    spans = {name: span_of(one) for name, (_, one) in mistakes_of(IMAGENET).items()}
    assert spans[OWN] == (-2.0, 2.0)
    assert spans["unit"] == (0.0, 1.0)
    assert spans["raw"] == pytest.approx((0, 255))
    assert spans["mean"] == (0.0, 4.0)
    assert spans["tiny"] == spans[STUDYS] == pytest.approx((0, 4 / 255))
    assert [one.channels for _, one in mistakes_of(IMAGENET).values()].count("bgr") == 2
    assert len(set(mistakes_of(IMAGENET).values())) == 7


def test_the_studys_head_is_a_function_of_its_seed_and_learns_what_is_easy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1500)
    features = (rng.normal(size=(1500, 6)) + 2 * labels[:, None]).astype(np.float32)
    before = torch.get_rng_state()
    one, same, other = (studys_head(features, labels, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert roc_auc_score(labels, one(torch.from_numpy(features)).detach().numpy()[:, 0]) > 0.95


def made_on(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[Part], list[int]]:
    """Make all mistakes with `Colours`; also return the parts and how often features were taken by then."""
    taken: list[int] = []

    def counted(*words: Any) -> Any:
        taken.append(1)
        return features_of(*words)

    monkeypatch.setattr(mistakes, "features_of", counted)
    monkeypatch.setattr(mistakes, "classifier_of", lambda model: model)
    monkeypatch.setattr(mistakes, "weights_digest", lambda _path: "a" * 32)
    facts = SimpleNamespace(preprocessing=IMAGENET, network="colours")
    run: Any = SimpleNamespace(path=folder, model=SimpleNamespace(pooled=Colours()), facts=facts)
    rows = np.arange(len(store))
    judged = [part_of("valid", store, rows[:30], 100), part_of("test", store, rows[30:], 100)]
    parts: Any = SimpleNamespace(train=(store, rows))
    settings = LadderSettings(resamples=100)
    return mistakes.make_mistakes(folder, run, parts, judged, settings, Progress(quiet=True), None), judged, taken


def test_all_are_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = colourful()
    made, _, taken = made_on(store, tmp_path, monkeypatch)
    assert len(taken) == 7 * 3
    assert made["on"] == ["valid", "test"]
    assert all(row["logistic"]["test"]["estimate"] == 1.0 for row in made["rows"]), "red says it under every scale"
    (tmp_path / "mistakes" / "raw.npz").unlink()
    again, _, taken = made_on(store, tmp_path, monkeypatch)
    assert len(taken) == 3, "only the one that was missing"
    assert again == made
    assert not (tmp_path / "mistakes" / "features").exists()


EITHER, ABOVE, BELOW = (-0.01, 0.01), (0.01, 0.03), (-0.03, -0.01)


@pytest.mark.parametrize(
    ("lost", "with_it", "without", "says"),
    [
        (ABOVE, BELOW, ABOVE, "Wrong scaling explains the study's puzzle"),
        (ABOVE, BELOW, EITHER, "Wrong scaling explains the study's puzzle"),
        (ABOVE, BELOW, BELOW, "explains a part of the study's puzzle: with it"),
        (ABOVE, EITHER, ABOVE, "which these tiles cannot tell from colour alone"),
        (ABOVE, ABOVE, ABOVE, "still above colour alone"),
        (EITHER, BELOW, ABOVE, "does not explain its 0.7237 here: with it"),
        (BELOW, BELOW, BELOW, "does not explain"),
        (ABOVE, None, None, "costs a part of what its 0.7237 lacks"),
    ],
)
def test_the_sentence_follows_the_intervals_and_not_the_points(
    lost: tuple[float, float], with_it: tuple[float, float] | None, without: tuple[float, float] | None, says: str
) -> None:
    def row(name: str, dense: float) -> dict[str, Any]:
        return {"name": name, "dense": {"test": {"estimate": dense}}, "logistic": {"test": {"estimate": 0.87}}}

    def paired(ends: tuple[float, float]) -> dict[str, float]:
        return {"estimate": sum(ends) / 2, "low": ends[0], "high": ends[1]}

    floor = None if with_it is None or without is None else {"auroc": 0.79, STUDYS: paired(with_it), OWN: paired(without)}
    made = {
        "on": ["valid", "test"],
        "rows": [row(OWN, 0.91), row(STUDYS, 0.72)],
        "lost": {"dense": paired(lost)},
        "floor": floor,
    }
    said = answer_of(made)
    assert says in said
    assert "from 0.9100 to 0.7200 on test" in said
    assert said.count(". ") == 0, "one sentence"
    assert ("with either" in said) == (lost == ABOVE and without == BELOW)
    assert ("holds 0" in said) == (lost == EITHER)


def test_the_floor_is_compared_on_the_same_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    store, rng = colourful(400), np.random.default_rng(0)
    judged = part_of("test", store, np.arange(100, 400), 100)
    monkeypatch.setattr(mistakes, "MOST_JUDGED", 50)
    few = mistakes.fewer(judged, 100, 0)
    assert 40 <= len(few.rows) <= 60
    level = rng.normal(size=300) + judged.labels
    floor: Any = SimpleNamespace(logits={"test": level})
    made = {name: {"dense-test": rng.normal(size=len(few.rows)) + worth * few.labels} for name, worth in ((OWN, 3), (STUDYS, 0))}
    got = mistakes.beside_floor(floor, judged, few, made, LadderSettings(resamples=100))
    assert got is not None
    at = few.rows - 100
    assert got["auroc"] == pytest.approx(roc_auc_score(few.labels, level[at]))
    for name in (OWN, STUDYS):
        own = roc_auc_score(few.labels, made[name]["dense-test"])
        assert got[name]["estimate"] == pytest.approx(own - got["auroc"], abs=1e-12)
    assert mistakes.beside_floor(None, judged, few, made, LadderSettings()) is None

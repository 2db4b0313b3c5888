"""Views, centre against rim, shifts: models that are known to follow one thing only are found out."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sentinode.errors import UsageProblem
from sentinode.flows.stress import MOST_TILES, beside, certificate, geometry, stress_of, stressed_rows
from sentinode.infer.stress import logits_of, logits_of_views
from sentinode.judge.statement import slides_of
from sentinode.nets.forward import view
from sentinode.nets.trained import Run
from sentinode.progress import Progress
from sentinode.settings import EvaluateSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.shifts import centre, centre_covered, rim_covered

Tiles = npt.NDArray[np.uint8]
FEW = EvaluateSettings(resamples=200)


class Looks:
    """A run whose logit is the mean red of some pixels, less a half."""

    def __init__(self, where: npt.NDArray[np.bool_]) -> None:
        self.where = where

    def logits(self, tiles: Tiles, *_: Any) -> npt.NDArray[np.float32]:
        return np.asarray(tiles[:, self.where, 0].mean(axis=1) / 25.5 - 5, np.float32)


def tiles_and_labels(n: int = 120, px: int = 12, inside: bool = True) -> tuple[Tiles, npt.NDArray[np.int64]]:
    """Return tiles whose centre (or rim) is red where they are positive; the rest says nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=n)
    tiles = rng.integers(80, 176, (n, px, px, 3))
    tiles[:, centre(px) == inside, 0] += (60 * labels - 30)[:, None]
    return tiles.astype(np.uint8), labels


@pytest.mark.parametrize("inside", [True, False])
def test_what_a_model_looks_at_is_what_it_follows(inside: bool) -> None:
    tiles, labels = tiles_and_labels(inside=inside)
    run = cast(Run, Looks(centre(12) == inside))
    whole, centre_only, rim_only = (logits_of([run], tiles, change) for change in (np.array, rim_covered, centre_covered))
    told = geometry(whole, centre_only, rim_only, (labels, slides_of(np.full(labels.size, "")), FEW))
    assert told["follows"] == ("the centre" if inside else "the rim")
    kept = told["centre_only" if inside else "rim_only"]
    assert kept["difference"]["estimate"] == pytest.approx(0, abs=1e-9)
    assert kept["auroc"]["estimate"] == pytest.approx(told["whole"])


def test_views_are_those_of_the_forward_pass_and_their_span_is_told() -> None:
    tiles, _ = tiles_and_labels(30)
    corner = np.zeros((12, 12), bool)
    corner[:3, :3] = True
    runs = [cast(Run, Looks(corner)), cast(Run, Looks(np.ones((12, 12), bool)))]
    done: list[int] = []
    found = logits_of_views(runs, tiles, done.append)
    assert done == [30] * 8
    for number in range(8):
        turned = view(torch.from_numpy(tiles), number).numpy()
        np.testing.assert_allclose(found[:, number], np.mean([run.logits(turned) for run in runs], axis=0), atol=1e-6)
    p = 1 / (1 + np.exp(-found))
    told = certificate(found, 0.5)
    assert told["mean_span"] == pytest.approx(np.ptp(p, axis=1).mean())
    assert told["largest_span"] == pytest.approx(np.ptp(p, axis=1).max())
    assert told["called_both_ways"] == pytest.approx(np.mean([len({one >= 0.5 for one in row}) == 2 for row in p]))
    still = certificate(logits_of_views(runs[1:], tiles), 0.5)
    assert still["largest_span"] < 1e-6
    assert still["called_both_ways"] == 0


def test_a_change_that_hides_the_signal_costs_auroc() -> None:
    tiles, labels = tiles_and_labels()
    run = cast(Run, Looks(centre(12)))
    whole, hidden = (logits_of([run], tiles, change) for change in (np.array, centre_covered))
    told = beside(whole, hidden, (labels, slides_of(np.char.add("s", (np.arange(120) % 12).astype(str))), FEW))
    assert told["difference"]["high"] < -0.2
    assert told["difference"]["method"] == "paired slide bootstrap (200 resamples)"


def test_many_tiles_are_sampled_classes_in_proportion() -> None:
    labels = (np.arange(5000) % 5 == 0).astype(np.int64)
    rows = stressed_rows(store_of(np.zeros((5000, 2, 2, 3), np.uint8), labels), 0)
    assert MOST_TILES - 4 <= len(rows) <= MOST_TILES
    assert labels[rows].mean() == pytest.approx(0.2, abs=0.001)


def test_scores_cannot_be_stressed_and_nothing_is_done_unasked() -> None:
    store = store_of(np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 1, 0, 1]))
    assert stress_of([], store, 0.5, FEW, Progress(quiet=True)) == {}
    with pytest.raises(UsageProblem, match="a run for --stress; found a scores file, which cannot be asked again; name the run"):
        stress_of([], store, 0.5, EvaluateSettings(stress=True), Progress(quiet=True))

"""The suite on intervals: its simulated truth is true, its two sides compute the same, its shares are counted right."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import intervals
from benchmarks.intervals import figures_of, large, ours, outcome, peer, share, simulated, true_auroc


def test_the_truth_of_simulated_studies_is_what_they_find_on_average() -> None:
    """200 studies, whose mean has a standard error of about 0.0025."""
    drawn = [simulated(np.random.default_rng(seed), 216, tiles=10, gain=0.3) for seed in range(200)]
    better, plain = np.mean([[roc_auc_score(one.labels, scores) for scores in one.models] for one in drawn], axis=0)
    assert plain == pytest.approx(true_auroc(), abs=0.008)
    assert better - plain == pytest.approx(true_auroc(0.3) - true_auroc(), abs=0.004)


def test_both_sides_compute_the_same_from_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    study = large(3000)
    assert (study.labels.size, study.slides.n) == (3000, 216)
    mine = ours(study)()["values"][:4]
    for repeat in (True, False):
        assert peer(study, 4, repeat=repeat)()["values"] == pytest.approx(mine, abs=1e-12)


def test_figures_count_what_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    one = outcome(simulated(np.random.default_rng(1), 40), 1)
    assert set(one) == {"bootstrap", "percentiles", "clustered", "tiles", "p", "bootstrap_rejects"}
    made = [one | {"bootstrap": held, "p": 0.01 if held else 0.5} for held in (True, True, True, False)]
    assert (share(made, "bootstrap"), share(made, "p")) == (75, 75)
    timed = {
        name: [{"seconds": seconds, "n": 10, "values": [0.5]}]
        for name, seconds in (("ours", 1), ("weighted", 60), ("repeated", 40))
    }
    found = figures_of(timed | {f"studies_{k}": made for k in (216, 20, 40)} | {"powered": made}, 70)
    assert (found["speedup_weighted"].reached, found["speedup_repeated"].reached) == (True, False)
    assert found["coverage_bootstrap"].text == "75.0 % (standard error 21.7)"
    assert (found["coverage_off_95"].reached, found["false_positives"].reached) == (False, False)
    assert found["largest_difference"].reached
    assert found["false_positives_40_slides"].reached is None

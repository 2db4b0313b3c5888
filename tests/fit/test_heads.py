"""Heads over frozen features: as scikit-learn has them, the same from the same seed, judged on what chose them."""

import dataclasses
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from sentinode.errors import MachineProblem, RunProblem, UndefinedScore, UsageProblem
from sentinode.fit import heads
from sentinode.fit.heads import STRENGTHS, fit_head, logits_of, standardising
from sentinode.fit.table import Table
from sentinode.nets.head import LinearHead, MlpHead
from sentinode.settings import TrainSettings

Floats = npt.NDArray[np.float32]
SETTINGS = dataclasses.replace(TrainSettings(), lr=1e-2, epochs=6, batch=16, weight_decay=0.01, dropout=0.2)
KINDS = ("logistic", "linear", "mlp")


def clouds(n: int = 160, width: int = 12, views: int = 1, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Two clouds of points far from 0, a third of them positive; views differ by a little noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 1 / 3).astype(np.int64)
    points = 30 + rng.normal(size=(n, 1, width)) * np.linspace(0.1, 5, width) + 0.1 * rng.normal(size=(n, views, width))
    points[:, :, 0] += 0.12 * labels[:, None]
    return points.astype(np.float32), labels


def fit(kind: str, views: int = 1, **changes: object):  # type: ignore[no-untyped-def]
    train, labels = clouds(views=views)
    valid, truth = clouds(90, seed=1)
    return fit_head(kind, train, labels, valid, truth, dataclasses.replace(SETTINGS, **changes)), valid[:, 0], truth  # type: ignore[arg-type]


@pytest.mark.parametrize(("tolerance", "within"), [(1e-4, 5e-3), (heads.TOLERANCE, 1e-2)])
def test_logistic_is_scikit_learns_best_by_validation(monkeypatch: pytest.MonkeyPatch, tolerance: float, within: float) -> None:
    """Near its converged fit: as near as the gradient at which a fit ends lets it be."""
    monkeypatch.setattr(heads, "TOLERANCE", tolerance)
    train, labels = clouds()
    fitted, valid, truth = fit("logistic")
    scaler = StandardScaler().fit(train[:, 0].astype(np.float64))
    best = (0.0, 0.0, np.zeros(0))
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-8)
        found = model.fit(scaler.transform(train[:, 0]), labels).decision_function(scaler.transform(valid))
        best = max(best, (float(roc_auc_score(truth, found)), strength, found), key=lambda one: one[0])
    assert fitted.auroc == pytest.approx(best[0], abs=0.01)
    chosen = LogisticRegression(C=fitted.history[int(np.argmax([h["valid_auroc"] for h in fitted.history]))]["strength"])
    chosen.set_params(class_weight="balanced", tol=1e-8).fit(scaler.transform(train[:, 0]), labels)
    np.testing.assert_allclose(fitted.valid_logits, chosen.decision_function(scaler.transform(valid)), atol=within)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [1, 3])
def test_what_is_told_is_what_the_head_gives(kind: str, views: int) -> None:
    fitted, valid, truth = fit(kind, views)
    np.testing.assert_allclose(logits_of(fitted.head, valid), fitted.valid_logits, atol=1e-6)
    assert fitted.auroc == pytest.approx(roc_auc_score(truth, fitted.valid_logits), abs=1e-12)
    assert fitted.auroc == max(line["valid_auroc"] for line in fitted.history)
    assert fitted.auroc > 0.6
    assert not fitted.head.training


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_head(kind: str) -> None:
    first, second = (fit(kind, 2)[0].head.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    if kind != "logistic":
        other = fit(kind, 2, seed=9)[0].head.state_dict()
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_standardisation_inside_is_that_of_scikit_learn() -> None:
    train, _ = clouds(3000, views=2)
    train[:, :, 3] = 7.0
    head = LinearHead(12)
    standardising(head, train)
    scaler = StandardScaler().fit(train.reshape(-1, 12).astype(np.float64))
    np.testing.assert_allclose(head.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(head.std, scaler.scale_, rtol=1e-4)
    by_hand = scaler.transform(train[:, 0]) @ head.dense.weight.detach().numpy()[0] + head.dense.bias.item()
    np.testing.assert_allclose(head(torch.from_numpy(train[:, 0])).detach(), by_hand, atol=1e-3)


def test_one_epoch_of_a_linear_head_is_plain_adamw_over_standardised_features() -> None:
    train, labels = clouds(32)
    settings = dataclasses.replace(SETTINGS, epochs=1, batch=32, warmup=0.0, balance=False)
    torch.manual_seed(5)
    fitted = fit_head("linear", train, labels, train, labels, settings)
    plain = torch.nn.Linear(12, 1)
    torch.nn.init.zeros_(plain.weight)
    torch.nn.init.zeros_(plain.bias)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=settings.lr, weight_decay=0.01)
    x = torch.from_numpy(StandardScaler().fit_transform(train[:, 0]).astype(np.float32))
    torch.nn.functional.binary_cross_entropy_with_logits(plain(x)[:, 0], torch.from_numpy(labels).float()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    np.testing.assert_allclose(fitted.valid_logits, plain(x)[:, 0].detach(), atol=1e-4)


def test_every_epoch_is_reported_and_patience_ends_it() -> None:
    train, labels = clouds()
    told: list[tuple[int, float]] = []
    settings = dataclasses.replace(SETTINGS, epochs=40, patience=2, lr=0.0)
    fitted = fit_head("mlp", train, labels, *clouds(90, seed=1), settings, lambda epoch, value: told.append((epoch, value)))
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert [value for _, value in told] == [line["valid_auroc"] for line in fitted.history]


def test_a_mlp_can_learn_what_a_line_cannot() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(600, 2)).astype(np.float32)
    labels = (points[:, 0] * points[:, 1] > 0).astype(np.int64)
    settings = dataclasses.replace(SETTINGS, epochs=20)
    line, mlp = (fit_head(kind, points[:400], labels[:400], points[400:], labels[400:], settings) for kind in ("linear", "mlp"))
    assert line.auroc < 0.65
    assert mlp.auroc > 0.95
    assert isinstance(mlp.head, MlpHead)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_map_give_the_head_of_the_same_rows_in_memory(kind: str) -> None:
    (train, labels), (valid, truth) = clouds(views=3), clouds(90, seed=1)
    both, order = np.concatenate([valid[:, [0, 0, 0]], train]), np.random.default_rng(4).permutation(250)
    at = np.argsort(order)
    tables = Table(both[order], at[90:]), Table(both[order], at[:90])
    plain = fit_head(kind, train, labels, valid, truth, SETTINGS)
    found = fit_head(kind, tables[0], labels, tables[1], truth, SETTINGS)
    np.testing.assert_array_equal(found.valid_logits, plain.valid_logits)


def test_a_logistic_head_takes_memory_for_its_features_once() -> None:
    train, labels = clouds(4000, width=2000)
    tracemalloc.start()
    fit_head("logistic", train, labels, train[:500], labels[:500], SETTINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * train.nbytes


def test_a_logistic_head_that_memory_has_no_room_for_is_told_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clouds(160)
    monkeypatch.setattr(heads, "available_bytes", lambda: 4 * 12 * 100)
    with pytest.raises(MachineProblem) as caught:
        fit_head("logistic", train, labels, train, labels, SETTINGS)
    assert caught.value.expected == "0.0 GB of memory for a logistic regression on 160 tiles of 12 features"
    assert caught.value.found == "0.0 GB that are free"
    assert caught.value.do == "use --head linear, which reads them a batch at a time, or --sample 100"
    assert fit_head("linear", train, labels, train, labels, SETTINGS).auroc > 0.5


def test_what_cannot_be_fitted_is_told() -> None:
    train, labels = clouds()
    with pytest.raises(UsageProblem, match=r"expected a head; found 'lineal'; did you mean linear"):
        fit_head("lineal", train, labels, train, labels, SETTINGS)
    with pytest.raises(UndefinedScore, match=r"tiles of both classes"):
        fit_head("linear", train, labels, train, np.zeros_like(labels), SETTINGS)
    with pytest.raises(RunProblem, match=r"a head that stays finite; found .* validation logits that are not; lower --lr"):
        fit_head("linear", train, labels, train * np.float32(np.inf), labels, SETTINGS)

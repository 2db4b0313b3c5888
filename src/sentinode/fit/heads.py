"""Heads fitted to frozen features: logistic regression with its strength chosen on validation, or a head trained step by step.

A feature of a tile costs a forward pass of the backbone; a head costs next to nothing. So features are taken once, and heads are
fitted over and over. As in `loop`, every draw is a function of (seed, step) or of (seed, epoch).
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from sentinode.errors import MachineProblem, RunProblem, UsageProblem, nearest, shown
from sentinode.fit.feed import epoch_order
from sentinode.fit.loop import class_weights, share_of_rate, step_seed
from sentinode.fit.table import Table, table_of
from sentinode.judge.auroc import auroc
from sentinode.machine.memory import available_bytes
from sentinode.nets.forward import Logits
from sentinode.nets.head import LinearHead, MlpHead, Standardised
from sentinode.settings import TrainSettings

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-10, 1))
"""Inverse strengths of the logistic regression's penalty, 1e-5 to 1 in half decades, strongest penalty first."""
WORSE = 2
"""Strengths in a row without a better AUROC after which the path ends: beyond the best one a fit takes longer and gains nothing."""
ITERATIONS = 200
"""Most iterations of one logistic fit; the path is warm, so that few are needed."""
TOLERANCE = 1e-3
"""Largest entry of the mean loss's gradient at which a logistic fit ends: with scikit-learn's own 1e-4 the path took twice as long, for the
same AUROC on validation and 0.0001 more on other slides (5,600 tiles, 6,848 features)."""
STACKED = 1 << 30
"""Bytes of standardised features up to which the logistic regression is given further views of the training tiles."""
CHUNK = 1024
"""Rows of features handled at once."""

Features = npt.NDArray[np.float32] | Table
"""float32 [n, d], or [n, views, d] with the tile as it is first: an array, a memory map, or rows of one."""
Labels = npt.NDArray[Any]
"""0 or 1, [n]."""
Report = Callable[[int, float], None]
"""Called with the epoch (1 is the first) and its validation AUROC; may raise to stop the fit."""


@dataclass(frozen=True)
class Fitted:
    """A head of the best validation AUROC.

    `head` takes raw features [n, d] (their standardisation is inside) and gives logits [n]; `valid_logits` float32 [m] are its own
    of the validation tiles, prevalence not put back; `history` has a line an epoch, or a line a strength of the penalty.
    """

    head: nn.Module
    auroc: float
    valid_logits: Logits
    history: list[dict[str, Any]]
    note: str


@dataclass(frozen=True)
class Task:
    """What every head is fitted to: features of training and validation tiles, labels [n] and [m] of both, and weights [n]."""

    train: Table
    labels: npt.NDArray[np.float32]
    valid: Table
    valid_labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    shift: float

    @property
    def width(self) -> int:
        """Return the number of features."""
        return int(self.train.shape[2])

    def judge(self, raw: Logits) -> dict[str, float]:
        """Return loss (prevalence put back) and AUROC of raw validation logits [m]; RunProblem where they are not finite."""
        if not np.isfinite(raw).all():
            bad = int((~np.isfinite(raw)).sum())
            raise RunProblem("a head that stays finite", f"{bad:,} of {raw.size:,} validation logits that are not", "lower --lr")
        x = raw.astype(np.float64) + self.shift
        loss = float(np.mean(np.logaddexp(0, x) - self.valid_labels * x))
        return {"valid_loss": loss, "valid_auroc": auroc(self.valid_labels, x)}


def silent(_epoch: int, _auroc: float) -> None:
    """Report to nobody."""


def fit_head(
    kind: str,
    train: Features,
    labels: Labels,
    valid: Features,
    valid_labels: Labels,
    settings: TrainSettings,
    report: Report = silent,
) -> Fitted:
    """Fit a head to frozen features and return the best by validation AUROC.

    Parameters
    ----------
    kind
        "logistic" (scikit-learn, lbfgs, strength of the penalty chosen on validation), "linear" or "mlp" (epochs of AdamW or SGD).
    train, valid
        Features [n, d], or [n, views, d]: a training tile then shows another view each epoch; validation uses the first.
    labels, valid_labels
        [n] and [m], 0 or 1.
    settings
        Resolved. "linear" and "mlp" read lr, batch, epochs, optimizer, weight_decay, warmup, balance, patience, seed ("mlp" also
        dropout); "logistic" reads balance alone.
    report
        Told of every epoch.

    Raises
    ------
    UsageProblem
        For an unknown kind.
    UndefinedScore
        If the validation part lacks a class.
    RunProblem
        If the fit does not stay finite.
    """
    task = task_of(train, labels, valid, valid_labels, balance=settings.balance)
    if kind == "logistic":
        return fit_logistic(task, report)
    if kind == "linear":
        head: Standardised = LinearHead(task.width)
    elif kind == "mlp":
        torch.manual_seed(settings.seed)
        head = MlpHead(task.width, dropout=settings.dropout)
    else:
        raise UsageProblem("a head", shown(kind), nearest(kind, ["logistic", "linear", "mlp"]))
    return fit_by_steps(standardising(head, task.train), task, settings, report)


def task_of(train: Features, labels: Labels, valid: Features, valid_labels: Labels, *, balance: bool) -> Task:
    """Return the features with their views apart, and the weights under which both classes weigh the same where asked."""
    truth = np.asarray(labels, np.float32)
    share = float(truth.mean())
    weights = class_weights(torch.from_numpy(truth), share).numpy() if balance else np.ones_like(truth)
    return Task(
        table_of(train),
        truth,
        table_of(valid),
        np.asarray(valid_labels, np.int64),
        weights,
        math.log(share / (1 - share)) if balance else 0.0,
    )


def standardising(head: Standardised, features: Features) -> Standardised:
    """Put mean and standard deviation of the training features, all views, into `head`; a constant feature gets 1.

    Source: Chan, Golub and LeVeque 1979, for moments of parts put together.
    """
    train = table_of(features)
    n, views, width = train.shape
    mean, squares, step, before = np.zeros(width), np.zeros(width), max(1, CHUNK // views), 0
    for start in range(0, n, step):
        part = torch.from_numpy(train.part(start, start + step).reshape(-1, width))
        spread, middle = (of.double().numpy() for of in torch.var_mean(part, dim=0, correction=0))
        apart, whole = middle - mean, before + len(part)
        mean += apart * len(part) / whole
        squares += spread * len(part) + apart**2 * before * len(part) / whole
        before = whole
    std = np.sqrt(squares / (n * views))
    std[std <= 1e-6 * np.maximum(1, np.abs(mean))] = 1
    head.mean.copy_(torch.from_numpy(mean))
    head.std.copy_(torch.from_numpy(std))
    return head


def logits_of(head: nn.Module, features: Features) -> Logits:
    """Return the logits float32 [n] of features, of the first view."""
    was_training, table = head.training, table_of(features)
    head.eval()
    with torch.inference_mode():
        parts = [head(torch.from_numpy(table.take(slice(start, start + CHUNK)))) for start in range(0, len(table), CHUNK)]
    head.train(was_training)
    return torch.cat(parts).numpy()


class Best:
    """The history of a fit, and the head as it was at the best validation AUROC so far."""

    def __init__(self, head: nn.Module, task: Task, report: Report) -> None:
        self.head, self.task, self.report, self.began = head, task, report, time.perf_counter()
        self.history: list[dict[str, Any]] = []
        self.at, self.auroc, self.logits = 0, -math.inf, np.empty(0, np.float32)
        self.state: dict[str, torch.Tensor] = {}

    def judge(self, step: int, train_loss: float, **more: float) -> int:
        """Add a line to the history and report it; return how many lines ago the best one was."""
        raw = logits_of(self.head, self.task.valid)
        told = self.task.judge(raw)
        line = {"epoch": len(self.history) + 1, "step": step, "train_loss": train_loss} | told | more
        self.history.append(line | {"seconds": round(time.perf_counter() - self.began, 3), "tiles": len(self.task.labels)})
        if told["valid_auroc"] > self.auroc:
            self.at, self.auroc, self.logits = len(self.history), told["valid_auroc"], raw
            self.state = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
        self.report(len(self.history), told["valid_auroc"])
        return len(self.history) - self.at

    def fitted(self, note: str) -> Fitted:
        """Return the best head."""
        self.head.load_state_dict(self.state)
        return Fitted(self.head.eval(), self.auroc, self.logits, self.history, note)


def fit_by_steps(head: Standardised, task: Task, settings: TrainSettings, report: Report) -> Fitted:
    """Train `head` for `settings.epochs`, with a rise and a cosine of the rate as in `loop`; keep the epoch of the best AUROC."""
    optimizer = optimizer_of(head, settings)
    n, views, width = task.train.shape
    memory = np.empty((settings.batch, width), np.float32)
    labels, weights = torch.from_numpy(task.labels), torch.from_numpy(task.weights)
    steps = settings.epochs * -(-n // settings.batch)
    best, step = Best(head, task, report), 0
    for epoch in range(settings.epochs):
        shown_view = np.asarray(np.random.default_rng([settings.seed, epoch, views]).integers(views, size=n))
        losses = torch.zeros(())
        for positions in epoch_order(n, settings.batch, settings.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * share_of_rate(step / steps, settings.warmup)
            if isinstance(head, MlpHead) and settings.dropout:
                torch.manual_seed(step_seed(settings.seed + 1, step))
            at = torch.from_numpy(positions)
            some = task.train.take(positions, shown_view[positions], memory[: len(positions)])
            outputs = head(torch.from_numpy(some))
            loss = functional.binary_cross_entropy_with_logits(outputs, labels[at], weight=weights[at])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses += loss.detach() * len(positions)
            step += 1
        ago = best.judge(step, float(losses) / n, lr=optimizer.param_groups[0]["lr"])
        if settings.patience and ago >= settings.patience:
            break
    return best.fitted(f"epoch {best.at} of {len(best.history)}")


def optimizer_of(head: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser that the settings ask for; matrices decay, biases do not."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    others = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def fit_logistic(task: Task, report: Report) -> Fitted:
    """Fit logistic regressions along STRENGTHS, each from the last one's weights, and keep the best by validation AUROC."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n, views, width = task.train.shape
    check_room(n, width)
    head = LinearHead(width)
    standardising(head, task.train)
    used = max(1, min(views, STACKED // (4 * n * width)))
    features = standardised(task.train, used, head)
    labels, weights = np.repeat(task.labels, used).astype(np.int64), np.repeat(task.weights / used, used)
    model = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    best = Best(head, task, report)
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            # A fit that ends at ITERATIONS is judged as it is: validation decides, not convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=strength).fit(features, labels, sample_weight=weights)
        with torch.no_grad():
            head.dense.weight.copy_(torch.from_numpy(model.coef_.astype(np.float32)))
            head.dense.bias.copy_(torch.from_numpy(model.intercept_.astype(np.float32)))
        x = model.decision_function(features).astype(np.float64)
        loss = float(np.average(np.logaddexp(0, x) - labels * x, weights=weights))
        if best.judge(int(model.n_iter_[0]), loss, strength=strength) >= WORSE:
            break
    return best.fitted(f"inverse strength of the penalty {STRENGTHS[best.at - 1]:.2g}")


def check_room(n: int, width: int) -> None:
    """Raise MachineProblem if `n` tiles of `width` features do not fit into memory: the logistic regression goes over all at once."""
    wanted, free = 4 * n * width, available_bytes()
    if wanted > free:
        raise MachineProblem(
            f"{wanted / 1e9:.1f} GB of memory for a logistic regression on {n:,} tiles of {width:,} features",
            f"{free / 1e9:.1f} GB that are free",
            f"use --head linear, which reads them a batch at a time, or --sample {max(1, free // (4 * width))}",
        )


def standardised(train: Table, used: int, head: Standardised) -> npt.NDArray[np.float32]:
    """Return the first `used` views, standardised, [n * used, d], made a chunk at a time so that there is one copy and no second."""
    mean, std = head.mean.numpy(), head.std.numpy()
    n, _, width = train.shape
    out = np.empty((n, used, width), np.float32)
    for start in range(0, n, CHUNK):
        np.subtract(train.part(start, start + CHUNK)[:, :used], mean, out=out[start : start + CHUNK])
        out[start : start + CHUNK] /= std
    return out.reshape(n * used, width)

"""THE training loop. Read it from top to bottom: it is all there is.

Every random draw of a step is a function of (seed, step), and every order of an epoch one of (seed, epoch): a run that was
killed goes on from its checkpoint to the same weights, bit for bit on a CPU. Several processes (`fit/shares.py`) divide each step.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.fit import sound
from sentinode.fit.augment import Augmentation, augmented
from sentinode.fit.feed import Feed, epoch_order
from sentinode.fit.shares import Norms, Share, drops_of, positions_of
from sentinode.machine.plan import Plan
from sentinode.machine.ranks import Ranks
from sentinode.nets.forward import Logits, arithmetic, logits
from sentinode.nets.room import SameDrop, fewer, with_room
from sentinode.nets.transform import Transform
from sentinode.settings import TrainSettings


@dataclass
class Progressing:
    """What changes while a network is trained, and all that a checkpoint holds but `news`.

    `average` is the running mean of the weights (the weights themselves where `ema` is 0); `best` its state at the epoch of the
    highest validation AUROC. `seconds` counts training and validation, over all sittings; `cpu_seconds` the time of all cores;
    `before` are the seconds that passed before the first step. With `minutes` the last validation, which took `validation_s` the
    last time or is expected to, is to be over at `until` seconds (0: at the end of the minutes). `at_once` is how many tiles go
    through the network at a time: the plan's micro-batch (0 before the first step), or less where memory was too small. `skipped`
    steps were not finite and not taken, the last `in_a_row` of them; `rate_factor` is what they left of the learning rate; `tally`
    is what `sound` keeps on a GPU, `sent` the one before it, on its way to the host. `news` are sentences nobody has read out yet.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    tiles_seen: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    before: float = 0.0
    until: float = 0.0
    validation_s: float = 0.0
    train_seconds: float = 0.0
    best_epoch: int = -1
    best_auroc: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: str = ""
    at_once: int = 0
    rate_factor: float = 1.0
    skipped: int = 0
    in_a_row: int = 0
    tally: Tensor | None = None
    sent: sound.Sent | None = None
    news: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judge:
    """How a validation pass is scored: `score(logits float32 [n])` gives (loss, AUROC)."""

    feed: Feed
    score: Callable[[Logits], tuple[float, float]]


def fit(
    state: Progressing,
    train: Feed,
    judge: Judge,
    transform: Transform,
    settings: TrainSettings,
    plan: Plan,
    keep: Callable[[Progressing, str], None],
) -> None:
    """Train `state` to the end of its settings; the best weights by validation AUROC are in `state.best`.

    `keep(state, when)` is called after each step ("step") and each epoch ("epoch"): it writes checkpoints, speaks, and may raise
    to stop. Time: `settings.minutes` bounds training and validation together (`state.until`), and the schedule then follows the clock.
    """
    steps_an_epoch = len(epoch_order(len(train), settings.batch, settings.seed, 0))
    ranks = train.ranks
    drops = drops_of(state.model, transform.input_px, plan.device, plan.precision) if ranks.world > 1 else ()
    follow_clock(state, ranks)
    began = time.perf_counter() - state.seconds
    cpu_began = time.process_time() - (state.cpu_seconds if ranks.first else 0.0)
    while not state.stopped_by:
        order = epoch_order(len(train), settings.batch, settings.seed, state.epoch)[state.step_in_epoch :]
        own = [positions_of(ranks, whole, plan.micro_batch) for whole in order]
        for whole, (batch, tick) in zip(order, timed(train.batches(own), state), strict=True):
            schedule(state, settings, steps_an_epoch)
            take_step(state, batch, transform, settings, plan, Share(len(whole), ranks, drops))
            tick()
            state.seconds = time.perf_counter() - began
            state.stopped_by = ended(state, settings)
            if settings.minutes is not None:
                follow_clock(state, ranks)
            if state.stopped_by:
                break
            keep(state, "step")
        validate(state, judge, transform, plan, began)
        state.cpu_seconds = ranks.total(time.process_time() - cpu_began)
        if not state.stopped_by:
            state.stopped_by = finished(state, settings)
        follow_clock(state, ranks)
        keep(state, "epoch")


def follow_clock(state: Progressing, ranks: Ranks) -> None:
    """Take over all that the first process's clock says, since rates of learning follow it, and whether it ends the training there."""
    names = ("seconds", "before", "until", "validation_s", "stopped_by")
    for name, value in zip(names, ranks.told([getattr(state, name) for name in names]), strict=True):
        setattr(state, name, value)


def timed(
    batches: Iterator[tuple[Tensor, Tensor]], state: Progressing
) -> Iterator[tuple[tuple[Tensor, Tensor], Callable[[], None]]]:
    """Yield each batch with a function that adds the time since the last step to `state.train_seconds`."""
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        state.train_seconds += now - last
        last = now

    for batch in batches:
        yield batch, tick


def take_step(
    state: Progressing,
    batch: tuple[Tensor, Tensor],
    transform: Transform,
    settings: TrainSettings,
    plan: Plan,
    share: Share | None = None,
) -> None:
    """Take one optimiser step on tiles uint8 [n, px, px, 3] and labels float32 [n], in micro-batches that sum to the whole.

    They are the whole of a step, or this process's `share` of it: then all processes take the same step together.

    Where memory is too small for a micro-batch, half of it goes through the network at a time from here on. Chance stays as it
    was: augmentation is drawn for the planned micro-batch, dropout's masks are cut from its. So the step is the same up to
    rounding, except for batch norms that learn their statistics: they see fewer tiles.
    """
    share, planned, before = share or Share(len(batch[1])), state.at_once or plan.micro_batch, sound.statistics(state.model)

    def attempt(at_once: int) -> tuple[Tensor, Norms]:
        """Compute the gradients of the share from the beginning."""
        norms = Norms.begun(share.ranks, state.model, before)
        return gradients(state, batch, transform, settings, plan, (share, norms, at_once)), norms

    (loss_sum, norms), state.at_once = with_room(attempt, planned)
    if state.at_once < planned:
        state.news.append(fewer(planned, state.at_once))
    loss_sum = share.add_up(state.optimizer, loss_sum, norms)
    state.tiles_seen += share.n
    state.step += 1
    state.step_in_epoch += 1
    bad = sound.not_finite(state, loss_sum)
    if sound.on_device(state):
        sound.step_blindly(state, bad, loss_sum, share.n, before)
        blend(state.average, state.model, settings.ema, state.step - 1, bad)
    elif bad:
        sound.skip(state, share.n, before)
    else:
        state.in_a_row = 0
        state.scaler.step(state.optimizer)
        state.scaler.update()
        blend(state.average, state.model, settings.ema, state.step - 1)
        state.loss_sum += float(loss_sum)
    state.optimizer.zero_grad(set_to_none=True)


def gradients(
    state: Progressing,
    batch: tuple[Tensor, Tensor],
    transform: Transform,
    settings: TrainSettings,
    plan: Plan,
    part: tuple[Share, Norms, int],
) -> Tensor:
    """Leave a share's gradients at the parameters, and return the sum of its losses.

    `part`: the share, the norms that learn in it, and how many tiles go through the network at a time.
    """
    (tiles, labels), (share, norms, at_once) = batch, part
    state.optimizer.zero_grad(set_to_none=True)  # those of an attempt for which memory was too small
    chance = torch.Generator().manual_seed(step_seed(settings.seed, state.step))
    torch.manual_seed(step_seed(settings.seed + 1, state.step))
    changes = Augmentation(settings.dihedral, settings.colour, settings.jpeg)
    weights = class_weights(labels, plan.positive_share) if settings.balance else torch.ones_like(labels)
    loss_sum = torch.zeros((), device=tiles.device)
    parts = zip(*(torch.split(whole, plan.micro_batch) for whole in (tiles, labels, weights)), strict=True)
    with arithmetic(tiles.device, plan.precision):  # around all parts: the weights are cast once
        for size, ours in share.sizes(plan.micro_batch):
            if not ours:
                share.pass_over(size, tiles.device, changes, chance)
                norms.fade()
                continue
            some, truth, weight = next(parts)
            with arithmetic(tiles.device, "fp32"):
                changed = augmented(some, transform.mean, transform.std, changes, chance)
            pieces = (torch.split(whole, at_once) for whole in (changed, truth, weight))
            for outputs, true, heavy in zip(passes(state.model, next(pieces), transform), *pieces, strict=True):
                losses = functional.binary_cross_entropy_with_logits(outputs.float(), true, weight=heavy, reduction="sum")
                state.scaler.scale(losses / share.n).backward()  # type: ignore[no-untyped-call]
                loss_sum += losses.detach()
            norms.seen(-(-len(some) // at_once))
    return loss_sum


def passes(model: nn.Module, pieces: Sequence[Tensor], transform: Transform) -> Iterator[Tensor]:
    """Yield the logits of each piece of a micro-batch of augmented tiles [k, 3, px, px], with dropout as in the whole of it."""
    chance = torch.cuda if pieces[0].is_cuda else torch
    n, first, before = sum(map(len, pieces)), 0, chance.get_rng_state() if len(pieces) > 1 else None
    for piece in pieces:
        with arithmetic(piece.device, "fp32"):
            inputs = transform.of_augmented(piece)
        if before is None:
            yield model(inputs)
            return
        chance.set_rng_state(before)
        with SameDrop(n, first):
            outputs = model(inputs)
        first += len(piece)
        yield outputs


def step_seed(seed: int, step: int) -> int:
    """Return a 63-bit seed that depends on (seed, step) alone."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFF, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def class_weights(labels: Tensor, positive_share: float) -> Tensor:
    """Return weights [n] under which both classes weigh the same over the training set, and 1 on average."""
    return torch.where(labels > 0.5, 0.5 / positive_share, 0.5 / (1 - positive_share))


@torch.no_grad()
def blend(average: nn.Module, model: nn.Module, decay: float, step: int, bad: Tensor | None = None) -> None:
    """Move the running mean towards the weights; the decay rises to its value so that early steps are forgotten soon.

    It stays where `bad` is true, a tensor that is not read.
    """
    if average is model:
        return
    rate: float | Tensor = 1 - min(decay, (1 + step) / (10 + step))
    rate = rate if bad is None else torch.where(bad, 0.0, rate)
    theirs = model.state_dict()
    for name, mine in average.state_dict().items():
        if mine.is_floating_point():
            mine.lerp_(theirs[name], rate if isinstance(rate, float) else rate.to(mine.dtype))
        else:
            mine.copy_(theirs[name])


def progress_of(state: Progressing, settings: TrainSettings, steps_an_epoch: int) -> float:
    """Return how much of the training is done, 0 to 1: by the clock where `minutes` is set, else by steps."""
    if settings.minutes is not None:
        last_step = end_of(state, settings) - state.validation_s
        return min(1.0, (state.seconds - state.before) / max(last_step - state.before, 1e-9))
    return min(1.0, state.step / (settings.epochs * steps_an_epoch))


def share_of_rate(done: float, warmup: float) -> float:
    """Return the share of the peak rate when `done` (0 to 1) of the training is over: a linear rise, then a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))


def schedule(state: Progressing, settings: TrainSettings, steps_an_epoch: int) -> None:
    """Set the learning rates: a linear rise over `warmup`, then a cosine to 0, times each group's scale and what skipped steps left."""
    share = share_of_rate(progress_of(state, settings, steps_an_epoch), settings.warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.lr * share * group["scale"] * state.rate_factor


def end_of(state: Progressing, settings: TrainSettings) -> float:
    """Return the seconds at which the last validation is to be over; never, without `minutes`."""
    return math.inf if settings.minutes is None else state.until or 60 * settings.minutes


def out_of_time(state: Progressing, settings: TrainSettings) -> bool:
    """Return whether one more step and the validation after it would pass the time there is."""
    one_step = state.train_seconds / max(state.step, 1)
    return state.seconds + state.validation_s + one_step >= end_of(state, settings)


def ended(state: Progressing, settings: TrainSettings) -> str:
    """Return why training is over after the step just taken, or ''."""
    return state.stopped_by or ("minutes" if out_of_time(state, settings) else "")


def finished(state: Progressing, settings: TrainSettings) -> str:
    """Return why training is over after the epoch just validated, or ''."""
    if settings.minutes is None and state.epoch >= settings.epochs:
        return "epochs"
    if settings.patience and state.epoch - 1 - state.best_epoch >= settings.patience:
        return "patience"
    return "minutes" if out_of_time(state, settings) else ""


def validate(state: Progressing, judge: Judge, transform: Transform, plan: Plan, began: float) -> None:
    """Close the epoch: judge the running mean, remember the best, add a line to the history; `began` is 0 on the run's clock.

    A mean that is not finite closes nothing: training ends with the best there is.
    """
    trained = state.seconds
    sound.look(state)
    sound.check_begun(state)
    tiles = judge.feed.in_order(plan.micro_batch)
    outputs = judge.feed.ranks.gathered(logits(state.average, tiles, transform, precision=plan.precision, say=state.news.append))
    if state.best and not np.isfinite(outputs).all():
        state.stopped_by, state.seconds = sound.STOPPED, time.perf_counter() - began
        return
    loss, auroc = judge.score(outputs)
    state.seconds = time.perf_counter() - began
    state.validation_s = state.seconds - trained
    if auroc > state.best_auroc:
        state.best_auroc, state.best_epoch = auroc, state.epoch
        state.best = {k: v.detach().clone() for k, v in state.average.state_dict().items()}
    state.history.append(
        {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / max(state.tiles_seen, 1),
            "valid_loss": loss,
            "valid_auroc": auroc,
            "lr": state.optimizer.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
            "tiles": state.tiles_seen,
        }
    )
    state.epoch += 1
    state.step_in_epoch = state.tiles_seen = 0
    state.loss_sum = 0.0

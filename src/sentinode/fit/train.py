"""The command `train`: settings, data, network, plan, loop, record, in this order."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sentinode.errors import RunProblem, StoreProblem, UsageProblem, shown
from sentinode.fit.checkpoint import interruption, read_checkpoint
from sentinode.fit.feed import make_feed
from sentinode.fit.frozen import fit_head_first, train_frozen
from sentinode.fit.keeper import Keeper, training_bar
from sentinode.fit.loop import Judge, Progressing, fit
from sentinode.fit.measure import new_state, step_seconds
from sentinode.fit.parts import Parts, choose_parts, deciding, fewer, fingerprint_of, unfinished
from sentinode.fit.pick import DECIDED, check_can_follow, expected, left_open, pick
from sentinode.fit.probe import keep_floor_sample
from sentinode.fit.rates import read_rate
from sentinode.fit.record import cost, finish
from sentinode.fit.start import Job, start, unwatched
from sentinode.judge.auroc import auroc
from sentinode.machine.clock import AIM, Picked, start_of_clock
from sentinode.machine.memory import memory_problems, refusing, set_allocator
from sentinode.machine.plan import LOOK_S, Plan, check_precision, choose_compile, choose_device, make_plan, with_reading
from sentinode.machine.probe import keep_to_usable_cores
from sentinode.machine.ranks import ALONE, Ranks, attempt, joined
from sentinode.nets.compiled import compile_problems
from sentinode.nets.forward import Logits, logits, placed
from sentinode.nets.trained import Run, load
from sentinode.nets.transform import Transform
from sentinode.progress import Progress
from sentinode.run import claim_folder, nothing_left, read_json, write_json
from sentinode.settings import TrainSettings, resolved, settings_from
from sentinode.tiles.store import Store

LEAST_PX = 8
"""Smallest edge that a network may be asked to see: with less, all that a tile shows is its colour."""


def train(
    store: str | Path | Store,
    *,
    out: str | Path,
    valid: str | Path | None = None,
    settings: TrainSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train as `sentinode.train` does, whose arguments these are (`flows/train.py`), without the picture.

    Of several processes that torchrun started, each returns the run.
    """
    settings = checked(settings_from(TrainSettings, settings, options))
    again = attempt() > 0 and (Path(out) / "unfinished.json").exists()  # the same command, after a process of the job died
    claim = Claim(resume or again, overwrite and not again, quiet)
    with joined(settings.device) as ranks:
        return train_watched(store, Path(out), valid, settings, claim, ranks=ranks)


@dataclass(frozen=True)
class Claim:
    """How a training treats what is in its folder, and whether it speaks."""

    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


@memory_problems()
def train_watched(
    store: str | Path | Store,
    folder: Path,
    valid: str | Path | None,
    settings: TrainSettings,
    claim: Claim,
    watch: Callable[[int, float], None] = unwatched,
    ranks: Ranks = ALONE,
) -> Run:
    """Train as `train` does, with the other processes of `ranks`.

    `watch` is told of each epoch (1 is the first) and its AUROC and may raise to stop. What `settings` leave open `minutes` decides; of
    resolved ones nothing is.
    """
    began, cpu_began = start_of_clock(), time.process_time()
    set_allocator()
    keep_to_usable_cores()
    progress, given, settings = Progress(claim.quiet or not ranks.first), settings, resolved(settings)
    check_can_follow(given)
    if settings.threads:
        torch.set_num_threads(settings.threads)

    if ranks.decided(lambda: is_finished(folder, claim)):
        return same(load(folder), given)
    device, _ = choose_device(settings.device)  # what is not there is told before anything is written
    check_precision(settings.precision, device)
    with refusing(device):
        parts, resumed = choose_parts(store, valid, settings), folder if claim.resume else None
        picked = Picked(**ranks.decided(lambda: dataclasses.asdict(kept_or_picked(resumed, given, parts, began))))
        if picked.changes:
            settings = with_picked(given, picked)
            parts = fewer(parts, settings, picked.choosers)
        network, facts = start(settings, parts)
        fingerprint = fingerprint_of(settings, parts, facts.training.get("weights_digest", ""))
        ranks.check_same("tiles, settings and weights", fingerprint)

        def claimed() -> tuple[bool, dict[str, Any]]:
            """Claim the folder."""
            begun = claim_folder(folder, "run.json", resume=claim.resume, overwrite=claim.overwrite)
            return begun, unfinished(folder, fingerprint, settings)

        begun, kept = ranks.decided(claimed)
        job = Job(folder, settings, parts, network, facts, fingerprint, progress, began, cpu_began, watch, picked, ranks)
        for line in (*parts.lines(), *([f"for {settings.minutes:g} minutes:", *picked.lines()] if picked.reasons else [])):
            progress.say(line)
        if "guard" in facts.training:
            progress.say(f"guard: {facts.training['guard']}")
        cleared = ranks.first and not begun
        keeping = nothing_left(folder, folder / "resume" / "state.safetensors") if cleared else nullcontext()
        with keeping, memory_problems(), compile_problems():
            run = train_frozen(job) if settings.backbone == "frozen" else train_network(job, kept.get("plan"))
    ranks.wait()
    return run or load(folder)


def is_finished(folder: Path, claim: Claim) -> bool:
    """Return whether a finished run is there that may be opened; UsageProblem if one is there that may not."""
    if not (folder / "run.json").exists() or (folder / "unfinished.json").exists() or claim.overwrite:
        return False
    return claim_folder(folder, "run.json", resume=claim.resume, overwrite=False)


def kept_or_picked(folder: Path | None, given: TrainSettings, parts: Parts, began: float) -> Picked:
    """Return what `minutes` decides of settings as they were given: as an unfinished run in `folder` has it, else by measurement."""
    choices = left_open(given)
    if not choices:
        return Picked()
    kept = (
        read_json(folder / "unfinished.json").get("picked")
        if folder is not None and (folder / "unfinished.json").exists()
        else None
    )
    return Picked(**kept) if kept else pick(given, choices, parts, began)


def with_picked(given: TrainSettings, picked: Picked) -> TrainSettings:
    """Return settings with what `minutes` decided, of what they leave open."""
    names = {name for choice in left_open(given) for name in DECIDED[choice]}
    return resolved(dataclasses.replace(given, **{name: value for name, value in picked.changes.items() if name in names}))


def same(run: Run, given: TrainSettings) -> Run:
    """Return a finished run if settings as they were `given` are those it was trained with; UsageProblem names what differs."""
    settings = with_picked(given, Picked(run.record.get("picked", {}).get("changes", {})))
    now, then = deciding(settings), run.record.get("settings", {})
    changed = [f"{name} {shown(now[name])}, not {shown(then[name])}" for name in now if name in then and then[name] != now[name]]
    if changed:
        do = "open it with sentinode.load, or train anew with --overwrite"
        raise UsageProblem(f"the settings that {shown(run.path)} was trained with", "; ".join(changed), do)
    return run


def train_network(job: Job, planned: dict[str, Any] | None) -> Run | None:
    """Train the network itself; `planned` is the plan that an unfinished run was started with: another would change it.

    Returns None where another process writes the run.
    """
    settings, parts, folder, progress, ranks = job.settings, job.parts, job.folder, job.progress, job.ranks
    plan = own_part(planned or ranks.decided(lambda: dataclasses.asdict(plan_for(job))), job)
    torch.set_num_threads(plan.threads)
    if ranks.first:
        kept = {"fingerprint": job.fingerprint, "settings": dataclasses.asdict(settings), "plan": dataclasses.asdict(plan)}
        kept |= {"picked": dataclasses.asdict(job.picked)} if job.picked.changes else {}
        write_json(folder / "unfinished.json", kept)
        keep_floor_sample(folder / "floor.npz", *parts.train)
    transform = Transform(job.facts.preprocessing, parts.train[0].px, plan.memory_format).to(plan.device)
    state = begun_state(job, plan)
    if settings.minutes:
        end, state.validation_s = ranks.decided(lambda: ahead(job, plan))
        state.until = AIM * 60 * settings.minutes - end
    of_both = (parts.train, parts.valid)
    feeds = [make_feed(of, rows, device=plan.device, resident=plan.resident, ranks=ranks) for of, rows in of_both]
    if plan.resident and any(feed.store for feed in feeds):
        progress.say("memory is too small to hold all tiles: they are read from disk, with the same result", always=True)
    if not state.step:
        state.seconds = state.before = time.perf_counter() - job.began
    judge = Judge(feeds[1], functools.partial(score, feeds[1].labels.cpu().numpy(), job.facts.logit_shift))
    with interruption() as asked, training_bar(progress, settings, len(feeds[0])) as tick:
        keeper = Keeper(folder, job.fingerprint, settings, progress, asked, len(feeds[0]), tick)

        def keep(state: Progressing, when: str) -> None:
            asked.asked = ranks.total(asked.asked) > 0  # none goes on where one was asked to end
            if ranks.first:
                keeper(state, when)
            elif asked.asked and not state.stopped_by:
                raise KeyboardInterrupt
            if when == "epoch" and not state.step_in_epoch:
                job.watch(state.epoch, state.history[-1]["valid_auroc"])

        try:
            fit(state, feeds[0], judge, transform, settings, plan, keep)
        except StoreProblem:
            if ranks.first:
                keeper.checkpoint(state=state)  # no step is half taken where a batch could not be read
            raise
    network = placed(job.network, plan.device)  # as prediction has it: training may have used another form
    network.load_state_dict(state.best)
    raw = ranks.gathered(logits(network, feeds[1].in_order(64), transform))
    if not ranks.first:
        return None
    best = state.history[state.best_epoch]
    record = {
        "best_epoch": state.best_epoch + 1,
        "stopped_by": state.stopped_by,
        "valid": {"auroc": best["valid_auroc"], "loss": best["valid_loss"]},
        "cost": cost(state, network, plan, transform.input_px),
        "plan": dataclasses.asdict(taken(plan, state)),
    }
    return finish(job, state.best, raw, record)


def own_part(planned: dict[str, Any], job: Job) -> Plan:
    """Return the plan as this process follows it: with its own device and threads where there are several, or were."""
    plan, ranks = Plan(**planned), job.ranks
    if ranks.world == plan.processes == 1:
        return plan
    own: dict[str, Any] = {
        "device": choose_device(job.settings.device)[0],
        "threads": job.settings.threads or torch.get_num_threads(),
    }
    return dataclasses.replace(plan, processes=ranks.world, **own)


def ahead(job: Job, plan: Plan) -> tuple[float, float]:
    """Return the seconds between the last validation and the end of the command, and those of a validation: as picked, or measured."""
    if job.picked.end and job.picked.validation:
        return job.picked.end, job.picked.validation
    return expected(job.settings, job.parts, (job.network, job.facts), plan)


def begun_state(job: Job, plan: Plan) -> Progressing:
    """Return what training begins with: the first state, or that of the checkpoint. All processes begin with the same."""
    settings, ranks, progress = job.settings, job.ranks, job.progress
    checkpoint = job.folder / "resume" / "state.safetensors"
    resumed = ranks.decided(checkpoint.exists)
    if settings.backbone == "finetune" and not resumed:
        fit_head_first(job)
    state = new_state(placed(job.network, plan.device), settings, plan)
    if resumed:
        damage = read_checkpoint(checkpoint, state, job.fingerprint)
        if damage:
            progress.say(damage, always=True)
        progress.say(f"resumed at epoch {state.epoch + 1}, step {state.step}")
        ranks.check_same("checkpoint", f"{state.epoch}, {state.step}")
    else:
        state.cpu_seconds = time.process_time() - job.cpu_began
        ranks.spread(*state.model.state_dict().values(), *state.average.state_dict().values())
    return state


def taken(plan: Plan, state: Progressing) -> Plan:
    """Return the plan as it was followed: with a smaller `at_once` than its micro-batch where memory was too small for that."""
    if state.at_once in {0, plan.micro_batch}:
        return plan
    why = {"at_once": f"memory was too small for {plan.micro_batch}"}
    return dataclasses.replace(plan, at_once=state.at_once, reasons=plan.reasons | why)


def checked(settings: TrainSettings) -> TrainSettings:
    """Return `settings` if their numbers can be meant; UsageProblem names the first that cannot."""
    ranges = {
        "valid_share": (0.0, 1.0),
        "warmup": (0.0, 1.0),
        "dropout": (0.0, 1.0),
        "ema": (0.0, 1.0),
        "jpeg": (0.0, 1.0),
        "colour": (0.0, 5.0),
        "lr": (0.0, 100.0),
        "freeze": (0.0, 1.0),
        "layer_decay": (0.0, 1.0),
    }
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            raise UsageProblem(
                f"{name} between {low:g} and {high:g}", str(getattr(settings, name)), f"change --{name.replace('_', '-')}"
            )
    least = {
        "epochs": 0,
        "batch": 0,
        "input_size": 0,
        "patience": 0,
        "seed": 0,
        "micro_batch": 0,
        "threads": 0,
        "weight_decay": 0,
        "checkpoint_s": 0,
    }
    for name, low in least.items():
        if not low <= getattr(settings, name) < math.inf:
            raise UsageProblem(f"{name} of at least {low}", str(getattr(settings, name)), f"change --{name.replace('_', '-')}")
    if 0 < settings.input_size < LEAST_PX:
        raise UsageProblem(f"input_size of 0 or at least {LEAST_PX}", str(settings.input_size), "change --input-size")
    if settings.minutes is not None and not 0 < settings.minutes < math.inf:
        raise UsageProblem("minutes above 0", str(settings.minutes), "change --minutes, or use --epochs")
    return settings


def plan_for(job: Job) -> Plan:
    """Make the plan and say it."""
    parts, settings, progress = job.parts, job.settings, job.progress
    store, rows = parts.train
    known: dict[str, Any] = {"precision": job.picked.precision} if job.picked.precision and settings.precision == "auto" else {}

    def step(plan: Plan) -> float:
        enough = math.inf if plan.compile else LOOK_S  # a compiler is at work in the first step
        return step_seconds(job.network, settings, plan, Transform(job.facts.preprocessing, store.px), enough=enough)

    plan = make_plan(
        dataclasses.replace(settings, **known),
        px=job.facts.preprocessing.input_px or store.px,
        resident_bytes=(len(rows) + len(parts.valid[1])) * store.px * store.px * 3,
        positive_share=parts.positive_share,
        step_seconds=step,
        ranks=job.ranks,
    )
    if known:
        plan = dataclasses.replace(plan, reasons=plan.reasons | {"precision": job.picked.reasons["precision"]})
    rate, how = (math.inf, "") if plan.resident else read_rate(store, rows)
    if rate < math.inf:
        plan = with_reading(plan, settings.batch, rate, how, job.ranks.local_world)
    plan = choose_compile(plan, settings, settings.epochs * -(-len(rows) // settings.batch), step)
    for line in ("plan:", *plan.lines()):
        progress.say(line)
    return plan


def score(labels: npt.NDArray[np.float32], shift: float, raw: Logits) -> tuple[float, float]:
    """Return (binary cross-entropy, AUROC) of raw logits [n], the prevalence put back by `shift`."""
    if not np.isfinite(raw).all():
        raise RunProblem(
            "a training that stays finite",
            f"{int((~np.isfinite(raw)).sum()):,} of {len(raw):,} validation logits that are not",
            "start anew with --overwrite and a lower --lr",
        )
    x = raw.astype(np.float64) + shift
    loss = np.mean(np.logaddexp(0, x) - labels * x)
    return float(loss), auroc(labels.astype(np.int64), x)

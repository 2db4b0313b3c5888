"""What `--minutes` decides where the user left it open: network, input size, and how many tiles train and choose, by measured rates.

A fine-tuned network is the best model of the three that are tried (README's ladder) as soon as there is time for some passes over
some tiles, at a smaller size if need be; then comes a head on its frozen features, then the simple CNN (after a minute on two cores
0.91 and 0.88 on other slides). Each way the sample is as large as the time allows.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from sentinode.errors import UsageProblem
from sentinode.fit.measure import new_state, step_seconds
from sentinode.fit.parts import Parts
from sentinode.fit.start import start, weights_of
from sentinode.machine.clock import AIM, LEAST_EPOCHS, Costs, Fit, Picked, fit_before
from sentinode.machine.plan import Plan, choose_device, make_plan
from sentinode.nets.backbone import USUAL_PX, own_px
from sentinode.nets.forward import logits, placed
from sentinode.nets.trained import ModelFacts
from sentinode.nets.transform import Transform
from sentinode.nets.weights import package_file
from sentinode.settings import OWN_NETWORKS, PRETRAINED, TrainSettings, resolved
from sentinode.tiles.passport import marks_of

RECORD_S = 4.5
"""Seconds of a record that do not grow with tiles: the machine's peak is measured, model, split and picture are written, and the
process ends. As found on two quiet cores."""
HEAD_S = 6.0
"""Seconds beside those of features: the engine that extracts them is chosen, and the head fitted to some thousands of tiles."""
NO_STEP_S = 1e-9
"""What a head on features takes for a pass over a tile: nothing that is counted, but in `HEAD_S`."""
PROBE_SHARE = 0.05
"""Share of the time that the steps of one precision may take in the probe; beyond, what was seen has to do."""
TRIAL_TILES = 32
"""Tiles whose scores and digests are timed."""
SIZES = (USUAL_PX, 128, 96)
"""Input sizes that a pretrained network is tried with, where its own is the first of them."""
WORTH_TILES = 2000
"""Training tiles below which a network is not fine-tuned at a size, unless there are no more."""
TUNING_MIN = 2.0
"""Minutes below which a CPU fine-tunes nothing, and does not try: looking at the pretrained network took a third of one minute."""
DECIDED = {"network": ("model", "backbone"), "input_size": ("input_size",), "sample": ("sample",)}
"""What may be open, and the settings that it stands for."""


def left_open(settings: TrainSettings) -> frozenset[str]:
    """Return what `minutes` may decide of settings as the user gave them: "network", "input_size", "sample".

    A learning rate or batch that was named belongs to a network: it then is the usual one.
    """
    if settings.minutes is None:
        return frozenset()
    own = settings.model, settings.backbone, settings.weights
    found = {"network"} if own == ("auto", "auto", "auto") and not settings.lr and not settings.batch else set()
    found |= {"sample"} if settings.sample == "auto" else set()
    return frozenset(found | ({"input_size"} if found and not settings.input_size else set()))


def check_can_follow(given: TrainSettings) -> None:
    """Raise UsageProblem for a frozen backbone with `minutes` whose sample is not left open: by nothing else can it follow the clock.

    Nothing is open in resolved settings, as folds and studies have them.
    """
    settings = resolved(given)
    if settings.backbone == "frozen" and settings.minutes is not None and not left_open(given):
        expected = "a sample that is left open, which is how a frozen backbone follows --minutes"
        do = "leave --sample or --minutes out (only 'train' itself chooses a sample), or use --backbone finetune"
        raise UsageProblem(expected, settings.sample, do)


def candidates(settings: TrainSettings, choices: frozenset[str]) -> Iterator[tuple[TrainSettings, str]]:
    """Yield resolved settings to try, the better network first, and why one that is missing is not there.

    A head takes no steps of the network: whose settings ask for an arithmetic or a compiler of those gets none.
    """
    if "network" not in choices:
        yield resolved(settings), "asked for"
        return
    there = package_file(PRETRAINED) is not None and find_spec("timm") is not None
    hopeless = (settings.minutes or math.inf) < TUNING_MIN and choose_device(settings.device)[0] == "cpu"
    if there and not hopeless:
        yield resolved(dataclasses.replace(settings, model=PRETRAINED, backbone="finetune")), "reaches most where there is time"
    if there and settings.precision in {"auto", "fp32"} and settings.compile != "yes":
        late = f"is not tried on a CPU in less than {TUNING_MIN:g} minutes" if hopeless else "does not fit into the time"
        why = f"a head on its features, since fine-tuning {late}"
        yield resolved(dataclasses.replace(settings, model=PRETRAINED, backbone="frozen")), why
    why = "no pretrained network fits into the time" if there else "pip install 'sentinode[backbones]' brings one to fine-tune"
    yield resolved(dataclasses.replace(settings, model=OWN_NETWORKS[0], backbone="scratch")), why


def pick(settings: TrainSettings, choices: frozenset[str], parts: Parts, began: float) -> Picked:
    """Measure the candidates and return the first that fits into `settings.minutes`, counted from `began` (`time.perf_counter`).

    Parameters
    ----------
    settings
        As the user gave them, not resolved.
    choices
        What is open (`left_open`).
    parts
        All tiles that may train and choose.
    """
    tried = list(candidates(settings, choices))
    for candidate, why in tried:
        sizes = sizes_of(candidate, choices)
        asked = dataclasses.replace(candidate, input_size=sizes[-1] or candidate.input_size)  # the least is measured the soonest
        network, facts = start(asked, parts)
        looked, cpu = time.perf_counter(), time.process_time()
        plan, step_s = quick_plan(asked, parts, network, facts)
        steps = LEAST_EPOCHS * min(WORTH_TILES, len(parts.train[1])) / asked.batch
        if candidate != tried[-1][0] and step_s * steps > 60 * (settings.minutes or 0):
            continue  # its steps alone take too long: nothing more is timed
        costs = measured(asked, parts, (network, facts), plan, step_s)
        busy = crowding(time.perf_counter() - looked, time.process_time() - cpu)
        costs = dataclasses.replace(costs, record=busy * costs.record, before=busy * costs.before)
        n_train, n_choose = len(parts.train[1]), len(parts.valid[1])
        deadline = AIM * 60 * (settings.minutes or 0) - (time.perf_counter() - began)
        seen = facts.preprocessing.input_px or parts.train[0].px
        for px in (size or seen for size in sizes):
            scaled = costs.at_size(px, seen)
            fit = fit_before(deadline, scaled, n_train, n_choose, sampled="sample" in choices)
            if fit.enough(min(WORTH_TILES, n_train)):
                break
        else:
            if (candidate, why) != tried[-1]:
                continue
        return told(candidate, parts, fit, (px, seen, px != (sizes[0] or px)), scaled, plan, why)
    raise ValueError("no candidate")


def crowding(wall_s: float, cpu_s: float) -> float:
    """Return how many times longer work takes because other programs want the cores, 1 or more, by work of `wall_s` that took `cpu_s`."""
    return max(1.0, wall_s / cpu_s) if cpu_s > 0.1 else 1.0


def sizes_of(candidate: TrainSettings, choices: frozenset[str]) -> tuple[int, ...]:
    """Return the input sizes to try, the usual one first; 0 stands for the network's own, where there is nothing to choose."""
    weights = weights_of(candidate) if "input_size" in choices and candidate.backbone == "finetune" else None
    return SIZES if weights is not None and own_px(weights.config) == USUAL_PX else (0,)


def told(
    candidate: TrainSettings, parts: Parts, fit: Fit, size: tuple[int, int, bool], costs: Costs, plan: Plan, why: str
) -> Picked:
    """Return what was picked, with its reasons. `size`: the edge chosen, the one measured, whether the former is smaller than usual."""
    px, seen, smaller = size
    n_train, n_choose = len(parts.train[1]), len(parts.valid[1])
    changes: dict[str, Any] = {"model": candidate.model, "backbone": candidate.backbone}
    changes |= {"input_size": px} if smaller else {}
    changes |= {"sample": str(fit.train)} if fit.train < n_train else {"sample": candidate.sample}
    frozen, end = candidate.backbone == "frozen", costs.end(fit.train, fit.choose)
    rate = 1 / costs.features if frozen else costs.batch / costs.step
    how = "were measured" if px == seen else f"by what was measured at {seen} px"
    passes = "features once, the head" if frozen else f"about {fit.epochs:.1f}"
    reasons = {
        "network": f"{candidate.model}, {candidate.backbone} ({why})",
        "input_size": f"{px} px ({'smaller, so that enough tiles fit' if smaller else 'its usual size, or as named'})",
        "sample": f"{fit.train:,} of {n_train:,} tiles ({rate:,.0f} tiles/s {how})",
        "epochs": f"{passes}, then the record ({end:.1f} s are kept for it)",
    }
    if "precision" in plan.reasons and not frozen:
        reasons["precision"] = plan.reasons["precision"]
    if fit.choose < n_choose:
        reasons["choosers"] = f"{fit.choose:,} of {n_choose:,} tiles (scoring all would take too much of the time)"
    choosers = fit.choose if fit.choose < n_choose else 0
    precision = "" if frozen else plan.precision
    return Picked(changes, choosers, precision, end, fit.choose * costs.validate, reasons)


def quick_plan(settings: TrainSettings, parts: Parts, network: nn.Module, facts: ModelFacts) -> tuple[Plan, float]:
    """Return a plan by one look at each precision, and the seconds of a step under it.

    A head on frozen features takes no steps of the network: its plan is in reduced precision where that is open, so that a forward
    pass is timed in that beside fp32, and 0 stands for the step.
    """
    times: dict[str, float] = {}
    enough = PROBE_SHARE * 60 * (settings.minutes or math.inf)
    px = parts.train[0].px
    frozen = settings.backbone == "frozen"
    known = dataclasses.replace(settings, precision="bf16") if frozen and settings.precision == "auto" else settings

    def step(plan: Plan) -> float:
        if max(times.values(), default=0.0) > enough:
            return math.inf  # a second precision is not worth that
        times[plan.precision] = step_seconds(network, settings, plan, Transform(facts.preprocessing, px), 1, enough)
        return times[plan.precision]

    plan = make_plan(
        known, px=facts.preprocessing.input_px or px, resident_bytes=0, positive_share=parts.positive_share, step_seconds=step
    )
    return plan, 0.0 if frozen else plan.step_s or step(plan)


def measured(
    settings: TrainSettings, parts: Parts, started: tuple[nn.Module, ModelFacts], plan: Plan, step_s: float = 0.0
) -> Costs:
    """Return what training costs here: a step took `step_s`, the rest is timed on some real tiles."""
    validate, last, digest = end_rates(settings, parts, *started, plan)
    if settings.backbone == "frozen":
        one = min(validate, last) * settings.feature_views  # in the engine that will be chosen, or less
        return Costs(NO_STEP_S, 1, 0.0, last, digest, RECORD_S, features=one, before=HEAD_S)
    tuned = settings.backbone == "finetune"
    return Costs(
        step=step_s,
        batch=settings.batch,
        validate=validate,
        last=last,
        digest=digest,
        record=RECORD_S,
        features=validate * settings.feature_views if tuned else 0.0,  # a forward pass each, or less
        exact=last if tuned else 0.0,
        before=HEAD_S if tuned else 0.0,
    )


def end_rates(
    settings: TrainSettings, parts: Parts, network: nn.Module, facts: ModelFacts, plan: Plan
) -> tuple[float, float, float]:
    """Return seconds a tile: of a validation inside training, of the last scores in plain fp32, of the digests that a run keeps."""
    store, rows = parts.valid
    some = rows[np.linspace(0, len(rows) - 1, min(TRIAL_TILES, len(rows))).astype(np.int64)]
    tiles = torch.from_numpy(np.array(store.tiles[some])).to(plan.device)
    transform = Transform(facts.preprocessing, store.px, plan.memory_format).to(plan.device)
    network = placed(copy.deepcopy(network), plan.device)
    plan = dataclasses.replace(plan, compile=False)  # a compiler's warm-up is no part of a validation
    # Nothing of a frozen network is trained: an optimiser's moments of it might not fit into memory.
    average = network if settings.backbone == "frozen" else new_state(network, settings, plan).average

    def seconds(model: nn.Module, batch: int, precision: str) -> float:
        parts_of = list(torch.split(tiles, batch))
        logits(model, parts_of[:1], transform, precision=precision)
        start_s = time.perf_counter()
        logits(model, parts_of, transform, precision=precision)
        return (time.perf_counter() - start_s) / len(tiles)

    validate, last = seconds(average, plan.micro_batch, plan.precision), seconds(network, TRIAL_TILES, "fp32")
    start_s = time.perf_counter()
    marks_of(store.tiles, some)
    return validate, last, (time.perf_counter() - start_s) / len(some)


def expected(settings: TrainSettings, parts: Parts, started: tuple[nn.Module, ModelFacts], plan: Plan) -> tuple[float, float]:
    """Return the seconds that the record and a validation are expected to take, of a run whose settings were not picked."""
    costs = measured(settings, parts, started, plan)
    n_train, n_choose = len(parts.train[1]), len(parts.valid[1])
    return costs.end(n_train, n_choose), n_choose * costs.validate

"""The ensemble of the ladder: networks fine-tuned for it alone, and who of all candidates is picked, on valid and never on test."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinode.errors import UndefinedScore, UsageProblem, shown
from sentinode.flows.rungs import MEMBER, VIEWS, Climbed, Part, settings_of
from sentinode.flows.verdicts import against, cost_of, figure_on, signed
from sentinode.infer.ensemble import mean_logit
from sentinode.judge.compare import auroc_difference
from sentinode.judge.picking import CRITERION, Picking, pick_members
from sentinode.judge.weighing import Weighing, weigh_members
from sentinode.nets.trained import weights_digest
from sentinode.scores import write_scores
from sentinode.settings import OWN_NETWORKS, LadderSettings, TrainSettings

MOST_PX = 2048
"""Largest input size that a member may be given."""


@dataclass(frozen=True)
class Member:
    """A network that is fine-tuned for the ensemble alone; `px` is its input size, 0: the fine-tuned rung's."""

    network: str
    px: int

    @property
    def name(self) -> str:
        """Its run's folder under rungs/: nothing in it that a path cannot hold."""
        return MEMBER + re.sub(r"[^A-Za-z0-9._]+", "-", self.network) + (f"-{self.px}" if self.px else "")

    @property
    def title(self) -> str:
        """How it is called."""
        return f"fine-tuned {self.network}" + (f" at {self.px} px" if self.px else "")

    def settings(self, settings: LadderSettings, trained: Sequence[str]) -> TrainSettings:
        """Return what it is trained with: the fine-tuned rung's settings with its own network, size and weights."""
        weights = "none" if settings.weights == "none" else "auto"  # a file or a tag is one network's and fits no other
        its: dict[str, Any] = {"model": self.network, "input_size": self.px or settings.input_size, "weights": weights}
        return settings_of("finetune", dataclasses.replace(settings, **its), trained)


def chosen_members(settings: LadderSettings, names: Sequence[str]) -> tuple[Member, ...]:
    """Return the members that `settings.members` names, each NAME or NAME@PX, beside the rungs `names`.

    Raises UsageProblem for a size that is none, a network of ours, one named twice or fine-tuned by its rung already, members
    without an ensemble, and an ensemble of fewer than two candidates.
    """
    members = tuple(member_of(text.strip()) for text in settings.members.split(",") if text.strip())
    taken = dict[str, str]()
    if "finetune" in names:
        rung = settings_of("finetune", settings, ["finetune"])
        taken[Member(rung.model, 0).name] = taken[Member(rung.model, rung.input_size).name] = "the fine-tuned rung"
    for member in members:
        if member.name in taken:
            found = f"{shown(member.title)}, which is {taken[member.name]}"
            raise UsageProblem("members that differ from each other and from the rungs", found, "name it once in --members")
        taken[member.name] = "named before"
    if members and "ensemble" not in names:
        raise UsageProblem("an ensemble for --members", "no such rung", "add ensemble to --rungs, or leave --members out")
    if "ensemble" in names and len(set(names) - {"floor", "ensemble"}) + len(members) < 2:
        do = "name more of them in --rungs or --members, or leave --rungs out"
        raise UsageProblem("rungs to climb", "an ensemble of fewer than two", do)
    return members


def member_of(text: str) -> Member:
    """Return the member that NAME or NAME@PX names; what follows the @ of a hub's name may be a revision, which has other letters."""
    network, at, size = text.rpartition("@")
    if not at or (text.startswith("hf-hub:") and not size.isdecimal()):
        network, px = text, 0
    else:
        px = int(size) if size.isdecimal() else 0
        if not network or not 0 < px <= MOST_PX:
            do = "change --members"
            raise UsageProblem("members as NAME or NAME@PX, such as tf_efficientnet_lite1@128", shown(text), do)
    if network in OWN_NETWORKS:
        raise UsageProblem("pretrained networks in --members", shown(network), "add it to --rungs: every rung is a candidate")
    return Member(network, px)


@dataclass(frozen=True)
class Ensemble:
    """The ensemble as a rung, all its candidates (of each, logits over eight views), and how members were picked."""

    rung: Climbed
    candidates: tuple[Climbed, ...]
    picking: Picking

    @property
    def members(self) -> tuple[Climbed, ...]:
        """Those picked, the best first."""
        by_name = {one.name: one for one in self.candidates}
        return tuple(by_name[name] for name in self.picking.picked)


def climb_ensemble(folder: Path, candidates: Sequence[Climbed], judged: Sequence[Part]) -> Ensemble:
    """Pick members on the tiles that choose and average their logits over eight views.

    It costs the training of all candidates, since without them nobody could have been picked, and to keep and run what was picked.
    """
    valid = judged[0]
    picking = pick_members(valid.labels, {one.name: one.views[valid.name] for one in candidates})
    by_name = {one.name: one for one in candidates}
    members = [by_name[name] for name in picking.picked]
    logits = {part.name: mean_logit([member.views[part.name] for member in members]) for part in judged}
    digests = [weights_digest(folder / "rungs" / member.name) for member in members]
    for part in judged:
        header = {"rung": "ensemble", "runs": digests, "views": VIEWS}
        write_scores(folder / "scores" / f"ensemble-{part.name}.parquet", part.scores(logits[part.name], header))
    rung = Climbed(
        name="ensemble",
        title=f"ensemble of {len(members) if len(members) > 1 else 'one'}, {VIEWS} views",
        logits=logits,
        minutes=sum(one.minutes for one in candidates),
        lack="; ".join(f"{one.title}: {one.lack}" for one in candidates if one.lack),
        train_rate=0.0,
        predict_rate=1 / sum(1 / member.views_rate for member in members),
        megabytes=sum(member.megabytes for member in members),
        weights=sum(member.weights for member in members),
    )
    return Ensemble(rung, tuple(candidates), picking)


def facts_of_ensemble(made: Ensemble, judged: Sequence[Part], resamples: int, seed: int) -> dict[str, Any]:
    """Return what the reader must know of an ensemble: every candidate over eight views, who was picked, on what, and why no more.

    `views_alone` is the paired difference of the best candidate over eight views to itself at one: what is left of the
    ensemble's gain is the ensemble's own doing.
    """
    best, last, picking = made.members[0], judged[-1], made.picking
    places = {name: place for place, name in enumerate(picking.picked, 1)}
    rows = []
    for one in made.candidates:
        alone = picking.alone[picking.same.get(one.name, one.name)]
        row: dict[str, Any] = {"name": one.name, "title": one.title, "network": one.network}
        row |= {"minutes": one.minutes, "minutes_lack": one.lack}
        row |= {"picked": places.get(one.name), "same_as": picking.same.get(one.name)}
        row |= {"log_loss": alone.log_loss, "predict_tiles_per_s": one.views_rate}
        row |= {part.name: figure_on(part, one.views[part.name], resamples, seed) for part in judged}
        rows.append(row)
    rows.sort(key=lambda row: (row["picked"] or len(rows) + 1, row["log_loss"], row["name"]))
    views_alone = auroc_difference(
        last.labels, best.views[last.name], best.logits[last.name], last.slides, resamples, seed
    ).as_dict()
    weighing, said = weighed(made, judged[0], seed)
    return {
        "chosen_on": judged[0].name,
        "criterion": CRITERION,
        "views": VIEWS,
        "candidates": rows,
        "steps": [step.as_dict() for step in picking.steps],
        "refused": picking.refused.as_dict() if picking.refused else None,
        "views_alone": views_alone | {"on": last.name},
        "weights": weighing.as_dict() if weighing else None,
        "notes": [words_of_picking(made, judged[0].name), *said, words_of_views(best, views_alone, last.name)],
    }


def weighed(made: Ensemble, valid: Part, seed: int) -> tuple[Weighing | None, list[str]]:
    """Return what fitted weights would do instead of the plain mean, on slides of `valid` held out of the fit, and a sentence on it.

    Nothing of an ensemble of one; where it cannot be told, the sentence says why.
    """
    if len(made.members) == 1:
        return None, []
    try:
        found = weigh_members(valid.labels, {one.title: one.views[valid.name] for one in made.members}, valid.slides, seed)
    except UndefinedScore as error:
        return None, [f"whether fitted weights beat the plain mean is not told: {error.found}; {error.expected} are needed"]
    return found, [f"{found.words()} of {valid.name}"]


def against_best(made: Ensemble, part: Part, resamples: int, seed: int) -> dict[str, Any]:
    """Return how the ensemble compares with its best member over the same views; alone, there is nothing to compare it with."""
    best = made.members[0]
    if len(made.members) == 1:
        cost = cost_of(made.rung, best)
        return {"below": best.name, "below_title": best.title, "verdict": "alone", "cost": cost}
    compared = against(made.rung, best, best.views[part.name], part, resamples, seed)
    return compared | {"below_title": f"{best.title} over {VIEWS} views"}


def words_of_picking(made: Ensemble, valid: str) -> str:
    """Say who was picked, by what and on which tiles, and what the next one would have changed."""
    titles = {one.name: one.title for one in made.candidates}
    steps, refused = made.picking.steps, made.picking.refused
    left = [one.title for one in made.candidates if one.name not in made.picking.picked]
    names = ", then ".join(f"{titles[step.name]} ({step.log_loss:.4f})" for step in steps)
    said = f"nothing improves on {names} on {valid}" if len(steps) == 1 else f"picked on {valid}: {names}"
    said += f", by {CRITERION}"
    said += f"; left out: {', '.join(left)}" if left else "; nobody was left out"
    return said + (f" (the next best, {titles[refused.name]}, would make it {refused.log_loss:.4f})" if refused else "")


def words_of_views(best: Climbed, difference: dict[str, Any], on: str) -> str:
    """Say what eight views alone do for the best member."""
    return f"{VIEWS} views alone: {signed(difference)} on {on}, {best.title} over {VIEWS} views against one"

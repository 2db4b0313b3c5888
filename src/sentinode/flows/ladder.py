"""The command `ladder`: from colour alone to an ensemble, each rung judged beside the one below it, with what it costs."""

import dataclasses
import hashlib
import json
import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sentinode.errors import StoreProblem, UsageProblem, shown
from sentinode.fit.parts import Parts, choose_parts
from sentinode.fit.start import start
from sentinode.fit.train import checked
from sentinode.flows.attempts import attempts_at
from sentinode.flows.evaluate import Origin, origin_of
from sentinode.flows.members import Ensemble, Member, against_best, chosen_members, climb_ensemble, facts_of_ensemble
from sentinode.flows.mistakes import make_mistakes
from sentinode.flows.rungs import (
    SAMPLED,
    TITLES,
    Climbed,
    Part,
    chosen_rungs,
    climb,
    climb_floor,
    part_of,
    settings_of,
    train_rung,
)
from sentinode.flows.study import study_rows
from sentinode.flows.verdicts import RULE, rows_of
from sentinode.machine.memory import memory_problems
from sentinode.machine.probe import probe
from sentinode.nets.trained import load
from sentinode.progress import Progress
from sentinode.report.ladder import ladder_lines, write_ladder
from sentinode.run import claim_folder, read_json, write_json
from sentinode.settings import LadderSettings, TrainSettings, check_resamples, settings_from
from sentinode.tiles.store import open_store

FORMAT = 1
"""Version of ladder.json."""


@dataclass(frozen=True)
class Way:
    """What a ladder is climbed with: its folder, the rungs and the ensemble's own members, who trains, who judges, and its voice."""

    folder: Path
    names: tuple[str, ...]
    members: tuple[Member, ...]
    parts: Parts
    judged: list[Part]
    settings: LadderSettings
    progress: Progress

    @property
    def sampled(self) -> list[str]:
        """What is trained beside the rungs, for the study's table."""
        return [SAMPLED] if self.settings.study and "simple-cnn" in self.names else []

    @property
    def trained(self) -> list[str]:
        """Names of all trainings: the minutes are divided among them."""
        return [*self.names, *self.sampled, *(member.name for member in self.members)]


@dataclass(frozen=True)
class Ladder:
    """A climbed ladder: its folder, and what ladder.json holds."""

    out: Path
    values: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"out": str(self.out)} | self.values

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the table for a terminal of 120 columns, warnings first, and where page and picture are."""
        return [*ladder_lines(self.values), "", f"page: {shown(self.out / 'ladder.html')}"]


@memory_problems()
def ladder(
    store: str | Path,
    *,
    out: str | Path,
    test: str | Path | None = None,
    settings: LadderSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Ladder:
    """Climb from the colour floor to an ensemble; say of each rung what it reaches, what it costs and whether it is worth it.

    Every rung trains on the same tiles and is chosen on the same: one split of one seed.

    Parameters
    ----------
    store
        A packed store with labels: it trains and, unless `valid` is set, a part of it chooses.
    out
        The folder to write: a run a rung, scores, ladder.json, ladder.csv, ladder.html and the picture.
    test
        A store that judges and never chooses; without it the verdicts rest on the tiles that chose, and it says so.
    settings, options
        A `LadderSettings`, and single settings by name over it.
    resume
        Go on with an unfinished ladder of the same settings and tiles; a finished one is opened.
    overwrite
        Replace a ladder of that name.
    quiet
        Say nothing.

    Returns
    -------
    Ladder
        As in ladder.json.

    Raises
    ------
    UsageProblem, StoreProblem, SplitProblem, RunProblem, UndefinedScore, MachineProblem
        For settings, tiles and folders that do not fit, or a store of one class.
    """
    settings = checked_settings(settings_from(LadderSettings, settings, options))
    names, folder = chosen_rungs(settings.rungs), Path(out)
    members = chosen_members(settings, names)
    parts, judged = open_parts(store, test, settings)
    way = Way(folder, names, members, parts, judged, settings, Progress(quiet))
    started = started_with(settings, parts, judged, weights_digests(way))
    if claim_folder(folder, "ladder.json", resume=resume, overwrite=overwrite):
        return_to(folder, started)
        if not (folder / "unfinished.json").exists():
            return Ladder(folder, read_json(folder / "ladder.json"))
    write_json(folder / "unfinished.json", started)
    origin = origin_of([parts.passport()], judged[-1].store) if len(judged) > 1 else None
    for line in first_words(origin, judged):
        way.progress.say(line, always=True)
    rungs, beside, ensemble = climb_all(way)
    mistakes = None
    if settings.study and "frozen" in names:
        floor = next((one for one in rungs if one.name == "floor"), None)
        frozen = load(folder / "rungs" / "frozen")
        mistakes = make_mistakes(folder, frozen, parts, judged, settings, way.progress, floor)
    rows, told = rows_of(rungs, judged, settings.resamples, settings.seed), None
    if ensemble:
        told = facts_of_ensemble(ensemble, judged, settings.resamples, settings.seed)
        rows[-1] |= against_best(ensemble, judged[-1], settings.resamples, settings.seed) | {"notes": told["notes"]}
    values = {
        "format": FORMAT,
        **started,
        "command": command_lines(store, folder, test, settings, names),
        "protocol": origin.protocol if origin else "valid only",
        "contaminated": bool(origin and origin.passport and origin.passport.is_contaminated),
        "warnings": first_words(origin, judged),
        "judged": [facts_of(part) for part in judged],
        "backbone": next((one.network for one in rungs if one.name in {"frozen", "finetune"}), None),
        "rule": RULE,
        "rungs": rows,
        "ensemble": told,
        "study": study_rows([*rungs, *beside], judged, settings.resamples, settings.seed, mistakes) if settings.study else [],
        "mistakes": mistakes,
        "conditions": {path.stem: attempts_at(folder, path.stem) for path in sorted((folder / "conditions").glob("*.json"))},
        "machine": dataclasses.asdict(probe()),
        "versions": {name: version(name) for name in ("sentinode", "torch")} | {"python": platform.python_version()},
    }
    write_ladder(folder, values)
    write_json(folder / "ladder.json", values)
    (folder / "unfinished.json").unlink()
    return Ladder(folder, read_json(folder / "ladder.json"))


def checked_settings(settings: LadderSettings) -> LadderSettings:
    """Return `settings` if they can be meant; UsageProblem names the first that cannot."""
    checked(settings)
    if settings.backbone != "auto":
        do = "leave --backbone out and choose rungs, such as --rungs floor,frozen,finetune"
        raise UsageProblem("each rung to bring its own backbone", f"--backbone {settings.backbone}", do)
    check_resamples(settings.resamples)
    return settings


def open_parts(store: str | Path, test: str | Path | None, settings: LadderSettings) -> tuple[Parts, list[Part]]:
    """Open the stores; return who trains and who chooses, and the parts that judge: valid, and test where there is one."""
    parts = choose_parts(store, settings.valid, settings)
    trained = parts.train[0]
    judged = [part_of("valid", *parts.valid, settings.resamples)]
    if test is not None:
        other = open_store(test)
        if (other.px, other.classes) != (trained.px, trained.classes):
            raise StoreProblem(
                f"tiles of {trained.px} px with classes {shown(trained.classes)} in --test, as in {shown(trained.path)}",
                f"{other.px} px with classes {shown(other.classes)}",
                "pack both stores the same way",
            )
        labelled = np.flatnonzero(other.rows["label"].to_numpy() >= 0)
        judged.append(part_of("test", other, labelled, settings.resamples))
    return parts, judged


def weights_digests(way: Way) -> dict[str, str]:
    """Return the digests of pretrained weights, of the backbone and of each member: what does not exist or fit is told first."""
    starts = {member.name: member.settings(way.settings, way.trained) for member in way.members}
    backbones = [name for name in way.names if name in {"frozen", "finetune"}]
    if backbones:
        starts = {"backbone": settings_of(backbones[0], way.settings, way.trained)} | starts
    return {name: str(start(how, way.parts)[1].training["weights_digest"]) for name, how in starts.items()}


def started_with(settings: LadderSettings, parts: Parts, judged: list[Part], weights: dict[str, str]) -> dict[str, Any]:
    """Return what decides a ladder: settings, tiles, pretrained weights, and a digest of them all."""
    stores = {"train": parts.train[0].digest, **{part.name: part.store.digest for part in judged}}
    facts = {"settings": dataclasses.asdict(settings), "stores": stores, "weights": weights}
    return {"fingerprint": hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32], **facts}


def return_to(folder: Path, started: dict[str, Any]) -> None:
    """Raise UsageProblem unless the ladder in `folder` was started with the same settings and tiles."""
    mark = folder / "unfinished.json"
    then = read_json(mark if mark.exists() else folder / "ladder.json")
    if then.get("fingerprint") == started["fingerprint"]:
        return
    before, now = then.get("settings", {}), started["settings"]
    changed = [f"{name} {shown(now[name])}, not {shown(value)}" for name, value in before.items() if now.get(name) != value]
    changed += [f"no {name}, as there was none then" for name in now if name not in before]
    stores = then.get("stores", {})
    changed += [f"another {name} store" for name in ("train", "valid", "test") if stores.get(name) != started["stores"].get(name)]
    raise UsageProblem(
        f"the settings and tiles that {shown(folder)} was started with",
        "; ".join(changed) or "other pretrained weights",
        "resume with the same command, or start anew with --overwrite",
    )


def first_words(origin: Origin | None, judged: list[Part]) -> list[str]:
    """Return the warnings that come first: contamination, what chose, and what is not known about slides."""
    warnings = list(origin.warnings) if origin else []
    if len(judged) == 1:
        warnings.append("no --test store: the verdicts rest on the tiles that chose every rung, so the figures are optimistic")
    warnings += [f"{part.name}: {text}" for part in judged for text in part.slides.warnings]
    return list(dict.fromkeys(warnings))


def climb_all(way: Way) -> tuple[list[Climbed], list[Climbed], Ensemble | None]:
    """Climb the rungs in order, then what the study's table needs beside them; what is there already is opened."""
    names, progress = way.names, way.progress
    rungs, ensemble = list[Climbed](), None
    for number, name in enumerate(names, 1):
        progress.say(f"rung {number}/{len(names)}: {TITLES[name]}")
        if name == "floor":
            rung = climb_floor(way.folder, way.parts, way.judged)
        elif name == "ensemble":
            candidates = [one for one in rungs if one.views] + climb_members(way)
            ensemble = climb_ensemble(way.folder, candidates, way.judged)
            rung = ensemble.rung
        else:
            rung = climb_run(way, name, TITLES[name], settings_of(name, way.settings, way.trained), "ensemble" in names)
        rungs.append(rung)
        progress.say(f"rung {number}/{len(names)}: {rung.title} took {minutes_text(rung.minutes)} of training")
    beside = []
    for name in way.sampled:
        progress.say(f"beside the rungs: {TITLES[name]}")
        beside.append(climb_run(way, name, TITLES[name], settings_of(name, way.settings, way.trained), views=False))
    return rungs, beside, ensemble


def climb_members(way: Way) -> list[Climbed]:
    """Fine-tune the networks that are for the ensemble alone, each a run of its own."""
    climbed = []
    for number, member in enumerate(way.members, 1):
        way.progress.say(f"member {number}/{len(way.members)}: {member.title}")
        climbed.append(climb_run(way, member.name, member.title, member.settings(way.settings, way.trained), views=True))
    return climbed


def climb_run(way: Way, name: str, title: str, how: TrainSettings, views: bool) -> Climbed:
    """Train one run, or open it, and score the parts with it."""
    run = train_rung(way.folder, name, way.parts.train[0], how, way.settings.valid, way.progress)
    return climb(way.folder, run, way.judged, title=title, views=views, device=way.settings.device, progress=way.progress)


def minutes_text(minutes: float) -> str:
    """Return a time as it is said: seconds below a minute."""
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} s"


def facts_of(part: Part) -> dict[str, Any]:
    """Return what the reader must know of a part: how many tiles and slides, and whether it chose."""
    return {
        "name": part.name,
        "store": str(part.store.path),
        "n": len(part.rows),
        "n_positive": int(part.labels.sum()),
        "n_groups": part.slides.n,
        "chose": part.name == "valid",
    }


def command_lines(
    store: str | Path, folder: Path, test: str | Path | None, settings: LadderSettings, names: tuple[str, ...]
) -> list[str]:
    """Return the commands that make this ladder, and those that judge its rungs again one by one."""
    defaults = LadderSettings()
    options = [
        word
        for one in dataclasses.fields(settings)
        if getattr(settings, one.name) != getattr(defaults, one.name)
        for word in option_words(one.name, getattr(settings, one.name))
    ]
    judged = [] if test is None else ["--test", str(test)]
    lines = [shlex.join(["sentinode", "ladder", str(store), "--out", str(folder), *judged, *options])]
    if test is not None:
        for name in names:
            scores = folder / "scores" / f"{name}-test.parquet"
            lines.append(shlex.join(["sentinode", "evaluate", str(scores), str(test), "--out", f"judgement-{name}"]))
    return lines


def option_words(name: str, value: Any) -> list[str]:
    """Return a setting as it is typed."""
    flag = name.replace("_", "-")
    return [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]

"""The AUROC on other slides that 1, 5 and 20 minutes bring, beside timm's network in a plain loop and fastai.

Inside the clock is all from files on disk to a model that can predict: imports, reading (ours packs into a store), training and the
choice of the epoch; not the judging. Everything trains on `kaggle/` and `pcam/train` and is judged on `pcam/valid`, which chooses
nothing on our side. Ours is, for each deadline, `sentinode pack` and `sentinode train --minutes` with what packing left of it, as a
user types them, and once `sentinode train --backbone frozen`, which knows no deadline. A peer (see the suite `goal`) plans its
schedule for the longest deadline, by a rate that was measured before the clock, and is judged four times an epoch and at each
deadline with the clock stopped; what it has by a deadline is its best look until then, chosen on the tiles that judge: generous to
it, since nobody could look. With --each it trains once for each deadline, its schedule planned for it.
"""

import argparse
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.clock import Measured, spread
from benchmarks.environments import PACKAGES, install_beside_our_torch
from benchmarks.goal import GOAL, PEERS, all_folders, ours, peer, timm_weights
from benchmarks.goal_peers import CHECKS
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from sentinode.report.style import FLOOR, MODEL, NEGATIVE, POSITIVE, WRONG, look, new_figure, save

DEADLINES, QUICK_DEADLINES, QUICK_TILES = (1.0, 5.0, 20.0), (0.3, 0.6), 128
"""Minutes; in a smoke run; and its tiles of each folder."""
TICKS = (0.5, 1, 2, 5, 10, 20)
"""Minutes that the picture's axis names beside the deadlines."""
USUAL = ("timm-switches", "timm", "fastai")
"""Peers that are asked unless others are named: all that begin with pretrained weights."""
FROZEN = "ours-frozen"
"""Ours without a deadline, as in the suite `goal`."""
LATE = 0.05
"""Share of a deadline by which a look may be late and still count, since ours aims to end within it."""
NAMES = {
    "ours": "sentinode train --minutes",
    FROZEN: "sentinode train --backbone frozen",
    "timm-switches": "timm's network in a plain loop, bf16, channels-last, our allocator settings",
    "timm": "timm's network in a plain loop, fp32",
    "fastai": "fastai: vision_learner, fine_tune, fp32",
    "fastai-switches": "fastai: vision_learner, fine_tune, fp32, our allocator settings",
    "cnn": "the small CNN from nothing in a plain loop, fp32",
    "cnn-switches": "the small CNN from nothing in a plain loop, bf16, channels-last, our allocator settings",
}
"""What each is."""
PROBED = 2
"""Looks that a peer's rate is measured by: between them lies a quarter of an epoch."""


def few(tiles: Path, home: Path, n: int) -> Path:
    """Lay out `n` tiles of each folder, of links, in the layout of `tiles`."""
    lines = (tiles / "kaggle/train_labels.csv").read_text(encoding="utf-8").split()[: n + 1]
    (home / "kaggle/train").mkdir(parents=True)
    (home / "kaggle/train_labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wanted = [tiles / "kaggle/train" / f"{line.split(',')[0]}.tif" for line in lines[1:]]
    for folder in ("pcam/train/0", "pcam/train/1", "pcam/valid/0", "pcam/valid/1"):
        wanted += sorted((tiles / folder).glob("*.*"))[: n // 2]
    for file in wanted:
        place = home / file.relative_to(tiles)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
    return home


def plan(variant: str, minutes: float, curve: list[tuple[float, float]]) -> int:
    """Return how many epochs a peer has time for, after the two looks at `curve`; fastai trains the head alone for one more."""
    (first, _), (second, _) = curve[:PROBED]
    quarter = second - first
    return max(1, int((60 * minutes - (first - quarter)) / (CHECKS * quarter)) - variant.startswith("fastai"))


def by(trainings: list[Measured], minutes: float) -> float | None:
    """Return the best AUROC that any of these trainings was seen to have by then; None where nobody had looked."""
    limit = 60 * minutes * (1 + LATE)
    return max((auroc for one in trainings for seconds, auroc in one["curve"] if seconds <= limit), default=None)


def reached_after(trainings: list[Measured]) -> float | None:
    """Return the seconds after which one of these trainings was first seen at the goal; None where none was."""
    return min((seconds for one in trainings for seconds, auroc in one["curve"] if auroc >= GOAL), default=None)


def peer_turn(variant: str, options: argparse.Namespace, folders: Path, weights: Path, probed: Measured | None) -> list[Measured]:
    """Train a peer for the longest deadline, or for each; `probed` tells its rate, unless the epochs were named."""
    longest, found = max(options.deadlines), []
    for minutes in options.deadlines if options.each else [longest]:
        epochs = options.epochs or plan(variant, minutes, probed["curve"] if probed else [])
        at = [deadline for deadline in options.deadlines if deadline <= minutes]
        how = argparse.Namespace(**vars(options) | {"minutes": minutes, "epochs": epochs, "at": at, "goal": 2.0, "looks": None})
        found.append(peer(variant, folders, how, weights) | {"planned_minutes": minutes, "planned_epochs": epochs})
    return found


def measure(options: argparse.Namespace) -> Record:
    """Take turns: ours at each deadline, ours without one, then every peer."""
    started = conditions(repeats=turns(options), deadlines=options.deadlines, goal=GOAL, own_schedules=options.each)
    raw: dict[str, list[list[Measured]]] = {}
    with tempfile.TemporaryDirectory() as name:
        options.tiles = few(options.tiles, Path(name) / "few", QUICK_TILES) if options.quick else options.tiles
        folders, weights = all_folders(options.tiles, Path(name)), timm_weights(Path(name))
        probe = argparse.Namespace(**vars(options) | {"minutes": 60, "epochs": 1, "at": [], "goal": 2.0, "looks": PROBED})
        rates = {} if options.epochs else {one: peer(one, folders, probe, weights) for one in options.peers}
        for turn in range(turns(options)):
            taken: dict[str, list[Measured]] = {}
            for minutes in (*options.deadlines, None):
                with tempfile.TemporaryDirectory() as home:
                    more = ["--backbone", "frozen"] if minutes is None else []
                    taken[f"ours_{minutes:g}" if minutes else FROZEN] = [ours(options.tiles, Path(home), more, minutes)]
            for variant in options.peers:
                taken[variant] = peer_turn(variant, options, folders, weights, rates.get(variant))
            for variant, trainings in taken.items():
                raw.setdefault(variant, []).append(trainings)
                best = max(auroc for one in trainings for _, auroc in one["curve"])
                spent = " + ".join(f"{one['seconds']:.0f} s" for one in trainings)
                print(f"  {turn + 1}/{turns(options)} {variant}: {spent}, AUROC {best:.4f}", flush=True)
    return Record(
        suite="minutes",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw={variant: [one | {"turn": at} for at, turn in enumerate(taken, 1) for one in turn] for variant, taken in raw.items()},
        figures=figures_of(raw, options.deadlines),
        conditions=started | {"n": raw[FROZEN][0][0]["n"], "rates": rates},
        notes=notes_of(raw, options),
    )


def figures_of(raw: dict[str, list[list[Measured]]], deadlines: list[float]) -> dict[str, Figure]:
    """Return each one's AUROC at each deadline, and the seconds after which it was seen at the goal."""
    figures: dict[str, Figure] = {}
    peers = [variant for variant in raw if not variant.startswith("ours")]
    for minutes in deadlines:
        mine = f"ours_{minutes:g}"
        figures[f"ours_at_{minutes:g}"] = figure(spread([turn[0]["curve"][0][1] for turn in raw[mine]]), "", digits=4)
        taken = figure(spread([turn[0]["seconds"] for turn in raw[mine]]), " s", digits=1)
        figures[f"ours_seconds_at_{minutes:g}"] = replace(taken, bar=60 * minutes * (1 + LATE), higher_is_better=False)
        for variant in (FROZEN, *peers):
            seen = [value for turn in raw[variant] if (value := by(turn, minutes)) is not None]
            if len(seen) == len(raw[variant]):
                figures[f"{variant}_at_{minutes:g}"] = figure(spread(seen), "", digits=4)
    for variant in (FROZEN, *peers):
        after = [reached_after(turn) for turn in raw[variant]]
        times = [seconds for seconds in after if seconds is not None]
        if len(times) == len(after):
            figures[f"{variant}_seconds"] = figure(spread(times), " s", digits=0)
    for variant in peers:
        if {f"{FROZEN}_seconds", f"{variant}_seconds"} <= figures.keys():
            pairs = zip(raw[FROZEN], raw[variant], strict=True)
            gain = [(reached_after(b) or 0) / (reached_after(a) or 1) for a, b in pairs]
            figures[f"speedup_{variant}"] = figure(spread(gain), "x", digits=1)
    return figures


def notes_of(raw: dict[str, list[list[Measured]]], options: argparse.Namespace) -> list[str]:
    """Return what a reader must know: who planned what, and what stood for whom."""
    said = [
        "A peer's AUROC at a minute is the best of its looks until then (up to 5 % late, as ours may be), chosen on the tiles that "
        "judge; ours is judged once.",
        f"`_seconds`: after which AUROC {GOAL:g} was seen; missing where it was not in each turn.",
    ]
    for minutes in options.deadlines:
        took = [turn[0] for turn in raw[f"ours_{minutes:g}"]]
        said.append(f"Ours in {minutes:g} minutes trained {' / '.join(dict.fromkeys(one['trained'] for one in took))}.")
    for variant in options.peers:
        plans = ", ".join(f"{one['planned_epochs']} epochs for {one['planned_minutes']:g} minutes" for one in raw[variant][0])
        said.append(f"{variant}: {NAMES[variant]}; its schedule: {plans}.")
    return said


def auroc_table(record: Record) -> str:
    """Return AUROC at each deadline as a Markdown table, a line each of ours and the peers."""
    deadlines = record.conditions["deadlines"]
    head = [f"{minutes:g} min" for minutes in deadlines]
    lines = ["| " + " | ".join(["AUROC on other slides, by", *head]) + " |", "| --- " * (len(head) + 1) + "|"]
    for variant in ("ours", FROZEN, *(one for one in record.raw if not one.startswith("ours"))):
        found = [record.figures.get(f"{variant}_at_{minutes:g}") for minutes in deadlines]
        lines.append("| " + " | ".join([NAMES[variant], *(one.text if one else "" for one in found)]) + " |")
    return "\n".join(lines)


def draw(record: Record, out: Path) -> None:
    """Draw AUROC against minutes: ours as points, the best of the peers' looks so far as steps, as minutes.svg and minutes.png."""
    deadlines = record.conditions["deadlines"]
    with look():
        picture = new_figure((6.4, 4.2))
        axes = picture.add_subplot()
        peers = [variant for variant in record.raw if not variant.startswith("ours")]
        styles = zip(itertools.cycle((POSITIVE, FLOOR, WRONG, NEGATIVE)), itertools.cycle(("-", "--", "-.")), strict=False)
        for variant, (colour, line) in zip(peers, styles, strict=False):  # twelve before one comes again
            seen = sorted(point for one in record.raw[variant] if one["turn"] == 1 for point in one["curve"])
            best = [max(auroc for _, auroc in seen[: at + 1]) for at in range(len(seen))]
            end = max(60 * max(deadlines), seen[-1][0])
            at = [seconds / 60 for seconds, _ in [*seen, (end, 0.0)]]
            axes.plot(at, [*best, best[-1]], color=colour, ls=line, lw=1.5, drawstyle="steps-post", label=variant)
        for minutes in deadlines:
            points = [one["curve"][0] for one in record.raw[f"ours_{minutes:g}"]]
            label = NAMES["ours"] if minutes == deadlines[0] else None
            axes.plot([s / 60 for s, _ in points], [auroc for _, auroc in points], "o", color=MODEL, ms=7, label=label)
        points = [one["curve"][0] for one in record.raw[FROZEN]]
        x, y = [s / 60 for s, _ in points], [auroc for _, auroc in points]
        axes.plot(x, y, "D", color=MODEL, mfc="none", ms=6, label=NAMES[FROZEN])
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [minutes for minutes in sorted({*deadlines, *TICKS}) if low <= minutes <= high]
        axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
        axes.minorticks_off()
        axes.set(xlabel="minutes from image files to a model", ylabel="AUROC on other slides")
        picture.legend(loc="outside upper center", ncols=2)
        save(picture, out, "minutes")


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--environment", type=Path, help="the virtual environment that holds fastai")
    options.add_argument("--install", action="store_true", help="make that environment first")
    options.add_argument("--peers", nargs="+", choices=PEERS, default=list(USUAL), help=f"beside ours ({' '.join(USUAL)})")
    options.add_argument("--deadlines", nargs="+", type=float, metavar="MINUTES", help="at which all are compared (1 5 20)")
    options.add_argument("--each", action="store_true", help="peers train once for each deadline, not once for the longest")
    options.add_argument("--epochs", type=int, help="that the peers' schedules are planned for; default: by their measured rate")
    chosen = options.parse_args()
    chosen.deadlines = sorted(chosen.deadlines or (QUICK_DEADLINES if chosen.quick else DEADLINES))
    if any(peer.startswith("fastai") for peer in chosen.peers) and chosen.environment is None:
        options.error("fastai needs --environment, or name other --peers")
    if chosen.install:
        install_beside_our_torch(chosen.environment, *PACKAGES["fastai"])
    finish(measure(chosen), chosen, draw)


if __name__ == "__main__":
    main()

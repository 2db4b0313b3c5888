"""The board: every quick suite on this machine, one after the other, as tables and pictures.

Inside the clocks is what each suite says of itself; the board only gathers their figures. Without --tiles it makes random ones, which
take the same time but have nothing to learn, so that no AUROC is measured. The peers' environments are made the first time, and what
cannot be installed is not measured. What it writes is that of this machine and this day: `board.json` (all records whole),
`README.md`, `board.svg`, `board.png` and, with tiles, `minutes.svg` and `minutes.png`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from benchmarks.environments import HOME, home_of
from benchmarks.goal import PEERS
from benchmarks.minutes import auroc_table
from benchmarks.minutes import draw as draw_minutes
from benchmarks.peers import class_folders
from benchmarks.records import Figure, Record, conditions, latest, newest, read_record, warnings
from benchmarks.synthetic import write_folder
from sentinode.report.style import MODEL, look, new_figure, save
from sentinode.run import write_bytes, write_json

OUT = Path(__file__).parent / "board"
"""Where the board lies."""
TILES, FEW = 1024, 64
"""Random tiles: of the folder that is timed; of those that judge."""
ONE_EPOCH = 1.0
"""Up to so many minutes a peer plans one epoch, and its rate is not measured first."""
SWITCHES = "bf16, channels-last, our allocator"
"""What a peer has with every switch set."""


@dataclass(frozen=True)
class Row:
    """One line of the board: the figure of a suite, what it is of, and beside whom."""

    suite: str
    figure: str
    job: str
    peer: str
    bound: str = ""
    of: str = "of the convolution peak"


ROWS = (
    Row("pack", "speedup", "pack TIFFs", "Pillow and np.save"),
    Row("pack", "speedup_switches", "pack TIFFs", "Pillow, a thread a core, our allocator"),
    Row("feed", "speedup", "feed tiles", "torchvision, DataLoader", "share_of_copy", "of gathering rows alone"),
    Row("feed", "speedup_switches", "feed tiles", "torchvision, DataLoader, our allocator"),
    Row("epoch", "speedup", "CNN epoch, plan's choice", "DataLoader, plain loop, fp32", "share_of_peak"),
    Row("epoch", "speedup_fp32", "CNN epoch, fp32", "DataLoader, plain loop, fp32", "share_of_peak_fp32"),
    Row("epoch", "speedup_allocator", "CNN epoch, plan's choice", "plain loop, our allocator"),
    Row("epoch", "speedup_switches", "CNN epoch, plan's choice", f"plain loop, {SWITCHES}"),
    Row("keras_epoch", "speedup", "CNN epoch, plan's choice", "Keras flow_from_dataframe, fp32"),
    Row("keras_epoch", "speedup_switches", "CNN epoch, plan's choice", "Keras, bf16, our allocator"),
    Row("extraction", "speedup", "frozen ResNet50, plan's choice", "timm, DataLoader, fp32", "share_of_peak"),
    Row("extraction", "speedup_fp32", "frozen ResNet50, fp32", "timm, DataLoader, fp32", "share_of_peak_fp32"),
    Row("extraction", "speedup_switches", "frozen ResNet50, plan's choice", f"timm, {SWITCHES}"),
    Row("finetune", "resnet18_speedup", "fine-tune ResNet18", "timm, DataLoader, fp32", "resnet18_share_of_peak"),
    Row("finetune", "resnet18_speedup_switches", "fine-tune ResNet18", f"timm, {SWITCHES}"),
    Row("finetune", "lite0_speedup", "fine-tune EfficientNet-Lite0, 192 px", "timm, DataLoader, fp32", "lite0_share_of_peak"),
    Row("finetune", "lite0_speedup_switches", "fine-tune EfficientNet-Lite0, 192 px", f"timm, {SWITCHES}"),
    Row("predict", "speedup", "ResNet18 over 8 views, a view", "TIAToolbox PatchPredictor", "share_of_peak"),
    Row("predict", "speedup_fp32", "ResNet18 over 8 views, a view, fp32", "TIAToolbox PatchPredictor", "share_of_peak_fp32"),
    Row("predict", "speedup_int8", "ResNet18 over 8 views, a view, int8 and its calibration", "TIAToolbox PatchPredictor"),
    Row("predict", "speedup_switches", "ResNet18 over 8 views, a view", "PatchPredictor, batch 64, 2 loaders, our allocator"),
)
"""The lines, in order; `bound` names the figure that says how near to its bound ours is, `of` that bound in words."""
SUITES = (*dict.fromkeys(row.suite for row in ROWS), "minutes")
HOMES = {"predict": "tiatoolbox", "keras_epoch": "keras"}
"""Suites whose peer has an environment of its own."""


def random_tiles(home: Path, n: int = TILES) -> Path:
    """Write random tiles in the layout that the suites read, and return the folder."""
    write_folder(home / "kaggle", n)
    for seed, part in enumerate(("train", "valid"), 1):
        class_folders(write_folder(home / part, FEW, seed), home / "pcam" / part)
    return home


def words_of(suite: str, chosen: argparse.Namespace) -> list[str]:
    """Return what else stands on a suite's command line, its peer's environment made where it is missing."""
    needed = "fastai" if suite == "minutes" and any(peer.startswith("fastai") for peer in chosen.peers) else HOMES.get(suite)
    words = ["--environment", str(home_of(needed, chosen.environments).resolve())] if needed else []
    if suite != "minutes":
        return [*words, "--quick", "--repeats", "3"]
    deadlines = [f"{minutes:g}" for minutes in chosen.minutes]
    once = ["--epochs", "1"] if max(chosen.minutes) <= ONE_EPOCH else []
    return [*words, "--each", "--deadlines", *deadlines, "--peers", *chosen.peers, *once]


def run_suite(suite: str, tiles: Path, records: Path, chosen: argparse.Namespace) -> Record | str:
    """Run one suite in a process of its own; return its record, or why there is none."""
    try:
        words = words_of(suite, chosen)
    except (subprocess.CalledProcessError, PackageNotFoundError, OSError) as error:
        return f"its peer could not be installed ({type(error).__name__})"
    command = [sys.executable, "-m", f"benchmarks.{suite}", "--tiles", str(tiles), "--records", str(records)]
    done = subprocess.run([*command, *words], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return " ".join("DIR" if os.sep in word else word for word in last.split())
    return latest(suite, records)


def lines_of(found: dict[str, Record | str]) -> list[tuple[Row, Figure, Figure | None]]:
    """Return the rows whose suites gave a record, each with its figure and its share of the peak."""
    lines = []
    for row in ROWS:
        record = found.get(row.suite)
        if isinstance(record, Record):
            lines.append((row, record.figures[row.figure], record.figures.get(row.bound)))
    return lines


def aurocs(found: dict[str, Record | str]) -> list[str]:
    """Return the part of the page that tells what some minutes of training bring."""
    record = found.get("minutes")
    if not isinstance(record, Record):
        return []
    return [auroc_table(record), "![AUROC against minutes](minutes.png)", "\n".join(f"- {note}" for note in record.notes)]


def longer_runs(out: Path) -> str:
    """Return where the curves lie that take longer than a board, if it is to lie beside them: each from a run of its own."""
    if out.resolve() != OUT.resolve():
        return ""
    pictures = {
        "scaling": "tiles/s from 1,000 to 220,000 tiles, on one core and on two",
        "minutes": "AUROC at 1, 5 and 20 minutes",
    }
    lines = []
    for suite, words in pictures.items():
        if (folder := newest(suite)) is not None:
            place = Path(os.path.relpath(folder, out)).as_posix()
            where = read_record(folder).conditions
            told = f"on {where['machine']['cores']} cores of {where['machine']['cpu']}, {where['started'][:10]}"
            lines.append(f"- A longer run, {told}: {words}: [curves]({place}/{suite}.png), [record]({place}/README.md)")
    return "\n".join(lines)


def page(found: dict[str, Record | str], started: dict[str, object], minutes: float, out: Path) -> str:
    """Return the board as a Markdown page, to lie in `out`."""
    machine = started["machine"]
    assert isinstance(machine, dict)
    gpus = "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    told = [
        "# The board",
        "![How many times faster than the peer](board.png)",
        "\n".join(
            [
                "| what | beside | times faster: median (range) | ours, by its bound |",
                "| --- | --- | --- | --- |",
            ]
            + [
                f"| {row.job} | {row.peer} | {one.text} | {f'{bound.text} {row.of}' if bound else ''} |"
                for row, one, bound in lines_of(found)
            ]
        ),
        *aurocs(found),
        longer_runs(out),
        "\n".join(f"- {suite}: not measured: {why}" for suite, why in found.items() if isinstance(why, str)),
        "\n".join(f"- {said}" for said in warnings(started)),
        f"{machine['cores']} cores of {machine['cpu']}{gpus}; {minutes:.0f} minutes. Quick suites, three turns of each side in turn; peers "
        "run in the same minutes. Raw times and versions are in `board.json`.",
    ]
    return "\n\n".join(part for part in told if part) + "\n"


def draw(found: dict[str, Record | str], out: Path) -> None:
    """Draw the ratios with their ranges on a logarithmic axis as board.svg and board.png."""
    lines = lines_of(found)
    with look():
        picture = new_figure((6.8, 1.0 + 0.42 * len(lines)))
        axes = picture.add_subplot()
        for at, (_, one, _) in enumerate(lines):
            axes.plot(one.span or [one.value] * 2, [at, at], color=MODEL, lw=2)
            axes.plot(one.value, at, "o", color=MODEL, ms=6)
            axes.annotate(
                f"{one.value:.1f}x", (one.value, at), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )
        axes.axvline(1, color="black", lw=0.8, ls="--")
        axes.set_yticks(range(len(lines)), [f"{row.job}\nbeside {row.peer}" for row, _, _ in lines], fontsize=7)
        axes.set_ylim(len(lines) - 0.5, -0.7)
        axes.set_xscale("log")
        ticks = [0.5, 1, 2, 5, 10, 20, 50]
        axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("times faster than the peer\n(median and range of three turns)")
        save(picture, out, "board")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiles", type=Path, metavar="DIR", help="folder with kaggle/, pcam/train/, pcam/valid/ (random tiles)")
    options.add_argument("--out", type=Path, default=OUT, help="where the board goes (benchmarks/board)")
    options.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES, help="which suites (all)")
    options.add_argument(
        "--environments", type=Path, default=HOME, help=f"folder of the peers' environments; missing ones are made ({HOME.name})"
    )
    options.add_argument("--minutes", nargs="+", type=float, default=[1.0], help="deadlines at which AUROC is compared (1)")
    options.add_argument("--peers", nargs="+", choices=PEERS, default=["timm-switches"], help="beside it then (timm-switches)")
    chosen = options.parse_args()
    started, start = conditions(), time.perf_counter()
    found: dict[str, Record | str] = {}
    with tempfile.TemporaryDirectory() as name:
        tiles = chosen.tiles or random_tiles(Path(name) / "tiles")
        for suite in chosen.suites:
            print(f"== {suite}", flush=True)
            if suite == "minutes" and chosen.tiles is None:
                found[suite] = "random tiles have nothing to learn; TILES=DIR names real ones"
            else:
                found[suite] = run_suite(suite, tiles, Path(name) / "records", chosen)
    minutes = (time.perf_counter() - start) / 60
    whole = {suite: asdict(record) if isinstance(record, Record) else {"not measured": record} for suite, record in found.items()}
    write_json(chosen.out / "board.json", {"conditions": started, "suites": whole})
    draw(found, chosen.out)
    if isinstance(trained := found.get("minutes"), Record):
        draw_minutes(trained, chosen.out)
    text = page(found, started, minutes, chosen.out)
    write_bytes(chosen.out / "README.md", text.encode())
    print("\n" + text)


if __name__ == "__main__":
    main()

"""The command `doctor`: what the machine has, how fast its parts are, which one limits training, and what to do about it."""

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentinode.errors import SourceProblem, shown
from sentinode.machine.disk import DiskSpeed, disk_speed
from sentinode.machine.match import Match, installed_match, wanted_torchvision
from sentinode.machine.memory import available_bytes, refusing, set_allocator
from sentinode.machine.probe import TF32_SINCE, Machine, convolution_peak, keep_to_usable_cores, probe
from sentinode.progress import Progress
from sentinode.settings import TrainSettings, resolved
from sentinode.tiles.store import Store, open_store

KAGGLE_TILES = 220_025
"""Tiles of Kaggle's training folder: what times and sizes are stated for."""
TILE_BYTES = 96 * 96 * 3
"""Bytes of one of them."""
TRIAL_TILES = 1_000
"""Images that the measurement decodes, synthetic or the first of `source`."""
ENDINGS = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}
"""Files of a source that the measurement decodes."""
PEAK_S = 0.4
"""Seconds that each precision's convolutions are measured."""
SLOW_DISK = 100e6
"""Bytes per second below which a disk is worth a word: reading Kaggle's store then takes more than a minute."""


@dataclass(frozen=True)
class Rates:
    """Tiles per second: `decode` from image files into a store, `feed` from the store to the network's input, `train` steps."""

    decode: float
    feed: float
    train: float


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found. Memory in bytes, peaks in FLOP/s by precision; `chosen` is the precision that training would choose."""

    machine: Machine
    device: str
    free: int
    threads: int
    allocator_set: bool
    match: Match
    peaks: dict[str, float]
    chosen: str
    disk: DiskSpeed
    rates: Rates
    measured_on: str
    bottleneck: str
    remedies: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the findings, a line each."""
        m, rates = self.machine, self.rates
        gpus = [f"{g.name}, {g.memory / 2**30:.0f} GiB, capability {g.capability[0]}.{g.capability[1]}" for g in m.gpus]
        software = f"cuda {m.cuda or 'none'}, cudnn {m.cudnn or 'none'}, driver {m.driver or 'none'}"
        peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in self.peaks.items())
        read = f"reads {self.disk.read / 1e6:,.0f} MB/s{'' if self.disk.read_cold else ' (from memory)'}"
        minutes = KAGGLE_TILES / min(rates.feed, rates.train) / 60
        features = ", ".join(m.features) or "no vector units known"
        kept = "kept by the process" if self.allocator_set else "given back to the system"
        return [
            f"processor    {shown(m.cpu)[1:-1]}: {m.cores} usable cores, {self.threads} threads; {features}",
            f"graphics     {'; '.join(gpus) or 'none that torch can use'}; {software}",
            f"memory       {m.memory / 2**30:.1f} GiB allowed, {self.free / 2**30:.1f} GiB free; big blocks are {kept}",
            f"software     torch {m.torch}, python {m.python}, {m.platform}",
            f"torchvision  {self.match.line}",
            f"arithmetic   convolutions on {self.device}, GFLOP/s: {peaks}; training chooses {self.chosen}",
            f"disk         temporary folder writes {self.disk.write / 1e6:,.0f} MB/s, {read}",
            f"rates        {self.measured_on}, tiles/s: decode {rates.decode:,.0f}, feed {rates.feed:,.0f}, train {rates.train:,.0f}",
            f"Kaggle's {KAGGLE_TILES:,} tiles: packed once in {KAGGLE_TILES / rates.decode:,.0f} s, "
            f"{KAGGLE_TILES * TILE_BYTES / 2**30:.1f} GiB in memory, {minutes:,.1f} minutes an epoch of the simple CNN",
            f"bottleneck   {self.bottleneck}",
            *(f"do           {remedy}" for remedy in self.remedies),
        ]


def doctor(store: str | Path | None = None, source: str | Path | None = None, *, quiet: bool = False) -> Diagnosis:
    """Find out what the machine has, measure it for a few seconds, and name what limits training and the setting that removes it.

    Parameters
    ----------
    store
        A packed store to measure feeding on, where it lies; without one, synthetic tiles in the temporary folder.
    source
        A folder of images to measure decoding on, where it lies (its first 1,000); without one, synthetic ones.
    quiet
        Say nothing while measuring.

    Raises
    ------
    StoreProblem, SourceProblem
        If `store` or `source` cannot be read.
    MachineProblem
        If the temporary folder is full or cannot be written.
    """
    allocator_set = set_allocator()
    progress = Progress(quiet)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    opened = None if store is None else open_store(store)
    import torch

    from sentinode.fit.rates import train_rate
    from sentinode.machine.plan import make_plan

    machine = probe()
    keep_to_usable_cores()
    progress.say("measuring arithmetic")
    settings = resolved(TrainSettings())
    device, precisions = device_of(machine)
    peaks = {precision: convolution_peak(device, precision, PEAK_S) for precision in precisions}
    progress.say("measuring the disk")
    disk = disk_speed(Path(tempfile.gettempdir()))
    progress.say("measuring decode, feed and train rates")
    px = 96 if opened is None else opened.px
    held = KAGGLE_TILES * TILE_BYTES if opened is None else len(opened) * px * px * 3
    with refusing(device):
        plan = make_plan(
            settings,
            px=px,
            resident_bytes=held,
            positive_share=0.5,
            step_seconds=lambda plan: settings.batch / train_rate(settings, plan, px),
        )
        rates = measure(opened, source, settings, plan, settings.batch / plan.step_s)
    match = installed_match()
    found = Diagnosis(
        machine=machine,
        device=device,
        free=available_bytes(),
        threads=torch.get_num_threads(),
        allocator_set=allocator_set,
        match=match,
        peaks=peaks,
        chosen=plan.precision,
        disk=disk,
        rates=rates,
        measured_on=f"{'synthetic' if source is None else 'your'} images, {'synthetic' if opened is None else 'your'} tiles",
        bottleneck=bottleneck_of(rates, device),
        remedies=(),
    )
    return dataclasses.replace(found, remedies=remedies_of(found, resident=plan.resident, held=held, busy=busy))


def device_of(machine: Machine) -> tuple[str, tuple[str, ...]]:
    """Return the device that training takes, and the precisions that it has."""
    if not machine.gpus:
        return "cpu", ("fp32", "bf16")
    newest = machine.gpus[0].capability
    return "cuda", ("fp32", *(("tf32", "bf16") if newest >= TF32_SINCE else ()), *(("fp16",) if newest >= (7, 0) else ()))


def measure(opened: Store | None, source: str | Path | None, settings: TrainSettings, plan: Any, train: float) -> Rates:
    """Measure decoding and feeding, on synthetic tiles where the user named none of their own."""
    from sentinode.fit.rates import feed_rate, pack_rate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_images(folder / "images") if source is None else Path(source)
        decode, packed = pack_rate(manifest(table, folder / "trial.csv"), folder / "trial.store")
        tiles = packed if opened is None else opened.tiles
        few = tiles[: 4 * TRIAL_TILES] if plan.resident else tiles
        feed = feed_rate(few, settings, plan)
        # Windows removes no file that is still mapped.
        del packed, tiles, few
    return Rates(decode=decode, feed=feed, train=train)


def write_images(folder: Path, n: int = TRIAL_TILES) -> Path:
    """Write `n` TIFFs of coarse noise, as Kaggle stores its tiles: 96x96 RGB, uncompressed."""
    from PIL import Image

    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(n):
        blocks = chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{number}.tif")
    return folder


def manifest(folder: Path, table: Path, n: int = TRIAL_TILES) -> Path:
    """Write a manifest of the first `n` images under `folder` to `table`, classes in turn, and return it."""
    images: list[Path] = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        images += [file for file in inside if file.suffix.lower() in ENDINGS]
        if len(images) >= n:
            break
    if not images:
        raise SourceProblem(
            "a folder with TIFF, PNG or JPEG images", f"none in {shown(folder)}", "name the folder that holds them"
        )
    import csv

    with table.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label"))
        writer.writerows((str(image.resolve()), number % 2) for number, image in enumerate(images[:n]))
    return table


def bottleneck_of(rates: Rates, device: str) -> str:
    """Return the slowest of the steps that every epoch repeats; decoding happens once."""
    if rates.feed < rates.train:
        return f"feeding: {rates.feed:,.0f} tiles/s arrive, {rates.train:,.0f} could be trained"
    times = rates.feed / rates.train
    return f"training arithmetic on {device}: {rates.train:,.0f} tiles/s; feeding is {times:,.0f} times faster"


def remedies_of(found: Diagnosis, *, resident: bool, held: int, busy: float) -> tuple[str, ...]:
    """Return what would remove the bottleneck, and what else is wrong, the most useful first."""
    machine, rates, cores = found.machine, found.rates, found.machine.cores
    said = []
    if machine.driver and not machine.gpus:
        said.append(
            "an NVIDIA driver is here but this torch cannot use it: install torch's CUDA build (pytorch.org, Get started)"
        )
    if found.threads < cores:
        said.append(f"{found.threads} of {cores} usable cores compute: unset OMP_NUM_THREADS, or --threads {cores}")
    if found.threads > cores:
        said.append(f"{found.threads} threads share {cores} cores: set OMP_NUM_THREADS={cores}, or --threads {cores}")
    if busy > 0.5 * cores:
        said.append(f"other programs keep {busy:.1f} of {cores} cores busy: measure and train when they have ended")
    if rates.feed < rates.train:
        fits = "--resident yes keeps them in memory" if held < found.free else "put the store on a faster disk"
        said.append("--colour 0 makes augmentation cheaper" if resident else fits)
    elif not machine.gpus:
        tried = "bf16 is chosen by measurement" if found.chosen == "bf16" else "bf16 was measured and does not pay"
        way = f"no {'other ' if said else ''}setting is in its way ({tried})"
        said.append(f"{way}: a GPU, --sample 20% or fewer --epochs shorten a run")
    if found.match.fits is False:
        said.append(f"pip install '{wanted_torchvision(found.match.torch)}'")
    if min(found.disk.write, found.disk.read) < SLOW_DISK:
        said.append("the temporary folder's disk is slow: point TMPDIR (Windows: TEMP) and --out to a local disk")
    if held > found.free:
        said.append(
            f"{held / 2**30:.1f} GiB of tiles do not fit the free memory: they are read from disk as needed (--resident no)"
        )
    return tuple(said)

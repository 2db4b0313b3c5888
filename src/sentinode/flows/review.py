"""What an audit has found: the record of every figure, the queue for a pathologist, and lines for the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sentinode.errors import shown
from sentinode.qc.domains import class_balance
from sentinode.qc.quality import REASONS, Quality
from sentinode.qc.suspects import Suspects
from sentinode.tiles.store import Store

if TYPE_CHECKING:
    from sentinode.flows.audit import Looked

FORMAT = 1
"""Version of audit.json."""
QUEUE = ("id", "reason", "score", "label", "group")
"""Columns of queue.csv."""
WORDS = {
    "blank": "glass only",
    "black": "edge of the scan, black ink or dirt",
    "thick": "a fold, or several layers",
    "foreign": "a colour that the stain does not give: ink, pigment",
    "clipped": "colours cut off",
    "blurred": "less sharp than the others",
}
"""What the reasons mean."""


@dataclass(frozen=True)
class Audit:
    """An audit: its folder and what audit.json holds."""

    path: Path
    record: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the record and the folder."""
        return {"audit": str(self.path)} | self.record

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the warnings, then what was found, at most a line each."""
        found, n = self.record, self.record["n"]
        inside, domains = found["duplicates"], found["domains"]
        lines = [f"WARNING     {text}" for text in found["warnings"]]
        lines.append(f"audited     {n:,} tiles of {shown(found['store'])}")
        lines.append(
            f"duplicates  {inside['pairs']:,} pairs, {inside['tiles']:,} tiles in {inside['sets']:,} sets; "
            f"{inside['conflicting_sets']:,} sets with both labels"
        )
        if "against" in found:
            between = found["against"]
            lines.append(
                f"against     {between['tiles']:,} tiles show a place of {shown(between['store'])}, {between['conflicts']:,} "
                "pairs with other labels"
            )
        spoilt = ", ".join(f"{name} {count:,}" for name, count in found["quality"].items() if count)
        lines.append(f"quality     {spoilt or 'nothing to see'}")
        lines.append(
            f"domains     {domains['stains']} by stain (pseudo-groups, not slides), {domains['compressions']} by compression"
        )
        ladder = found["leak_ladder"]
        if ladder is None:
            lines.append(f"leaks       not given, because: {found['missing']['leak ladder']}")
        else:
            for name, figure in ladder["figures"].items():
                interval = f"{figure['estimate']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}; {figure['method']})"
                lines.append(f"leaks       {name:<16} AUROC of colour {interval}")
            lines += [f"leaks       {name:<16} not given, because: {why}" for name, why in ladder["missing"].items()]
        lines.append(self._suspect_line())
        lines.append(f"queue       {found['queue']['rows']:,} lines to look at: {shown(self.path / 'queue.csv')}")
        return lines

    def _suspect_line(self) -> str:
        suspects = self.record["suspects"]
        if suspects is None:
            return f"suspects    not given, because: {self.record['missing']['label suspects']}"
        return (
            f"suspects    {suspects['counted']:,} labels that confident learning does not believe, the {suspects['queued']:,} most "
            f"suspicious in the queue; {suspects['probe']} probe, folds keep {suspects['folds']}"
        )


def queue_of(store: Store, quality: Quality, sets: pd.DataFrame, suspects: Suspects | None, share: float) -> pd.DataFrame:
    """Return what a pathologist should look at: id, reason, score, label (class name), group; one line a tile and reason.

    First tiles of a place that has both labels (score 1), then label suspects (score: 1 - probability of the given label), the most
    suspicious first and as many as `share` of the labelled tiles, then spoilt tiles by reason (score: how far beyond the threshold).
    """
    parts = [pd.DataFrame({"id": sets.loc[sets["conflict"], "id"], "reason": "conflicting duplicates", "score": 1.0})]
    if suspects is not None:
        head = suspects.table.head(round(share * len(suspects.table)))
        parts.append(pd.DataFrame({"id": head["id"], "reason": "label suspect", "score": 1 - head["self_confidence"]}))
    for reason in REASONS:
        rows = quality.table.iloc[quality.worst(reason, len(quality.table))]
        parts.append(pd.DataFrame({"id": rows["id"], "reason": f"{reason}: {WORDS[reason]}", "score": rows["severity"]}))
    queue = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    rows = store.rows.set_index(store.rows["id"].astype(str)).loc[queue["id"].astype(str).tolist()]
    names = dict(enumerate(store.classes))
    queue["label"] = [names.get(int(label), "") for label in rows["label"]]
    queue["group"] = rows["group"].astype(str).to_numpy()
    return queue[list(QUEUE)]


def audit_record(
    store: Store, other: Store | None, looked: "Looked", queue: pd.DataFrame, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what audit.json holds."""
    inside = looked.pairs[looked.pairs["where"] == "inside"]
    slides = [name for name in store.rows["group"].astype(str) if name]
    names = store.rows["group"].astype(str).to_numpy() if slides else looked.domains.table["pseudo_group"].to_numpy()
    balance = class_balance(names.tolist(), store.rows["label"].to_numpy())
    suspects = looked.suspects
    record: dict[str, Any] = {
        "format": FORMAT,
        "store": str(store.path),
        "digest": store.digest,
        "n": len(store),
        "settings": settings,
        "duplicates": {
            "pairs": len(inside),
            "kinds": {str(kind): int(count) for kind, count in inside["kind"].value_counts().sort_index().items()},
            "tiles": len(looked.sets),
            "sets": int(looked.sets["group"].nunique()),
            "conflicting_sets": int(looked.sets.loc[looked.sets["conflict"], "group"].nunique()),
        },
        "quality": looked.quality.counts(),
        "domains": {
            "stains": looked.domains.n_stains,
            "compressions": looked.domains.n_compressions,
            "stain_strength": {str(k): v for k, v in looked.domains.stain_strength.items()},
            "compression_strength": {str(k): v for k, v in looked.domains.compression_strength.items()},
        },
        "balance": {"of": "slides" if slides else "pseudo-groups (not slides)", "groups": plain(balance)},
        "leak_ladder": None if looked.ladder is None else looked.ladder.as_dict(),
        "suspects": None
        if suspects is None
        else {
            "counted": suspects.n_suspects,
            "queued": int((queue["reason"] == "label suspect").sum()),
            "folds": suspects.folds,
            **looked.about,
        },
        "missing": looked.missing,
        "queue": {"rows": len(queue), "tiles": int(queue["id"].nunique())},
    }
    if other is not None:
        between = looked.pairs[looked.pairs["where"] == "between"]
        record["against"] = {
            "store": str(other.path),
            "digest": other.digest,
            "pairs": len(between),
            "tiles": int(between["id_a"].nunique()),
            "conflicts": int(between["conflict"].sum()),
        }
    return record | {"warnings": warnings_of(record, store, looked.about["pseudo_slides"])}


def plain(balance: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain values, null where a share is not defined."""
    return [
        {str(name): (None if isinstance(value, float) and np.isnan(value) else value) for name, value in row.items()}
        for row in balance.to_dict("records")
    ]


def warnings_of(record: dict[str, Any], store: Store, pseudo: int) -> list[str]:
    """Return what would spoil a figure, the worst first."""
    said = []
    conflicts, tiles = record["duplicates"]["conflicting_sets"], record["duplicates"]["tiles"]
    if record.get("against", {}).get("tiles"):
        of_both = record["against"]["tiles"]
        said.append(f"{of_both:,} tiles are also in the other store: neither can judge a model that was trained on the other")
    if conflicts:
        said.append(
            f"{conflicts:,} sets of duplicates have both labels: one of them is wrong, or the label hangs on a few pixels"
        )
    ladder = record["leak_ladder"]
    if ladder and ladder["gap"] and ladder["gap"]["low"] > 0:
        gap = ladder["gap"]
        said.append(
            f"a random split of these tiles is optimistic: colour alone loses {gap['estimate']:.3f} of AUROC "
            f"({gap['low']:.3f} to {gap['high']:.3f}) from a random to a {ladder['strictest']} split"
        )
    if tiles > 0.01 * len(store):
        said.append(f"{tiles:,} of {len(store):,} tiles have a duplicate: split so that they stay together")
    if pseudo:
        said.append(f"the groups of {pseudo:,} tiles are pseudo-groups that were packed as if they were slides: taken as unknown")
    unknown = int((store.rows["group"].astype(str) == "").sum())
    if unknown:
        said.append(
            f"the slides of {unknown:,} tiles are not known; pseudo_groups.csv proposes clusters of stain, which are not slides"
        )
    alone = [row for row in record["balance"]["groups"] if row["positive_share"] in (0, 1)]
    if alone:
        said.append(f"{len(alone):,} of {len(record['balance']['groups']):,} {record['balance']['of']} have one class only")
    return said

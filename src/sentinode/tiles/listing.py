"""The list of a source's tiles, and one look into a folder."""

import os
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sentinode.errors import SourceProblem, shown
from sentinode.tiles.hdf5 import Pair
from sentinode.tiles.stored import Stored
from sentinode.tiles.tables import IMAGE_EXTENSIONS

OTHER_IMAGES = frozenset(
    {".bmp", ".gif", ".webp", ".jp2", ".jpe", ".jfif", ".heic", ".avif", ".svs", ".ndpi", ".mrxs", ".dcm", ".npy"}
)
"""Files that hold pixels in a format that is not taken: listed in quarantine, where a text file is merely counted."""
USUAL_ENDINGS = tuple(sorted(IMAGE_EXTENSIONS))
"""The extensions as nearly all files have them, for a test that costs nothing."""


class Quarantined(NamedTuple):
    """What was left out, and why: the source's name, the path in it (or the id), a reason to count by, and its details."""

    source: str
    path: str
    reason: str
    detail: str


@dataclass
class Listing:
    """The tiles of one source in order of id.

    `ids`, `paths` (below `root`, with /), `labels` and `groups` are parallel; "" is unknown. `prefix` leads from the source to
    `root`. `indices` are rows of an HDF5 file, or of what is `stored`; what was packed before has its quarantine in the order it had.
    """

    name: str
    kind: str
    root: str
    prefix: str = ""
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    labelled: bool = True
    fixed: bool = False
    ignored: int = 0
    pair: Pair | None = None
    indices: list[int] = field(default_factory=list)
    stored: Stored | None = None

    def place(self, i: int) -> str:
        """Return the path of tile `i` in its source, with /."""
        return self.prefix + self.paths[i]

    def origin(self) -> str:
        """Return the name of the store that it was packed into before, or else its own."""
        return self.stored.places[0].folder.name if self.stored is not None else self.name

    def whereabouts(self, i: int) -> str:
        """Return where tile `i` lies, so that a reader finds it: source, path and, for one packed before, its store."""
        store = f"{self.stored.folder_of(self.indices[i])}: " if self.stored is not None else ""
        return f"{store}{self.name}/{self.place(i)}"

    def part(self, first: int, last: int, *, leads: bool) -> "Listing":
        """Return tiles `first` to `last` (not included); what is told of the source as a whole goes with the part that `leads`."""
        stored = self.stored
        if stored is not None and not leads:
            stored = replace(stored, lost=0, lost_unlabelled=0, merged=dict.fromkeys(stored.merged, 0), unmatched=0)
        columns = {name: getattr(self, name)[first:last] for name in ("ids", "paths", "labels", "groups", "indices")}
        quarantined, ignored = (self.quarantined, self.ignored) if leads else ([], 0)
        return replace(self, stored=stored, quarantined=quarantined, ignored=ignored, **columns)

    def add(self, name: str, path: str, label: str, group: str = "") -> None:
        """Take one tile."""
        self.ids.append(name)
        self.paths.append(path)
        self.labels.append(label)
        self.groups.append(group)

    def refuse(self, path: str, reason: str, detail: str = "") -> None:
        """Leave something out and remember why; the path is made printable text, since it may be no text at all."""
        self.quarantined.append(Quarantined(self.name, as_text(path), reason, detail))

    def sort(self) -> None:
        """Put the tiles in order of id, by code point."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        if self.stored is None:
            self.quarantined.sort()
        for name in ("ids", "paths", "labels", "groups", "indices"):
            column = getattr(self, name)
            if column:
                setattr(self, name, [column[i] for i in order])


def as_text(name: str) -> str:
    """Return a file's name as text that any file can hold; bytes that are no UTF-8 become visible escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if not is_text(name) else name


def is_text(name: str) -> bool:
    """Return whether a file's name is text: Linux allows names that are not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Folder(NamedTuple):
    """One look into a folder: names of images, of subfolders, of images in formats not taken, how many other files and stores."""

    images: list[str]
    folders: list[str]
    refused: list[str]
    ignored: int
    stores: int


def is_store(path: str) -> bool:
    """Return whether a folder is a store, finished or not, of an earlier pack: it is no folder of images."""
    return any(os.path.isfile(f"{path}{os.sep}{name}") for name in ("store.json", "unfinished.json"))  # noqa: PTH113


def look_into(path: str) -> Folder:
    """List a folder without opening a file in it; names that start with a dot, and stores, do not count."""
    images: list[str] = []
    others: list[os.DirEntry[str]] = []
    folders: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(USUAL_ENDINGS) and name[0] != "." and entry.is_file():
                    images.append(name)
                elif name[0] != ".":
                    others.append(entry)
        if not is_text("".join(images)):
            others += [entry for entry in os.scandir(path) if not is_text(entry.name)]
            images = [name for name in images if is_text(name)]
        refused, ignored, stores = [], 0, 0
        for entry in others:
            extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
            if entry.is_dir():
                if is_store(entry.path):
                    stores += 1
                else:
                    folders.append(entry.name)
            elif extension in IMAGE_EXTENSIONS and entry.is_file() and is_text(entry.name):
                images.append(entry.name)
            elif extension in IMAGE_EXTENSIONS or extension in OTHER_IMAGES:
                refused.append(entry.name)
            else:
                ignored += 1
    except OSError as error:
        raise SourceProblem(
            f"a readable folder {shown(path)}", str(error.strerror), "check its name and its permissions"
        ) from error
    return Folder(images, folders, sorted(set(refused)), ignored, stores)

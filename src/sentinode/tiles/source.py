"""Where tiles come from: what kind of source a path is, and the list of its tiles before one is decoded.

In: paths as the user gave them. Out: one `Listing` a source, sorted by id, so that neither the order of a folder nor the
number of threads can show in the store. Knows names and tables, no pixels.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from sentinode.errors import SourceProblem, UsageProblem, shown
from sentinode.settings import PackSettings
from sentinode.tiles.hdf5 import find_pairs, is_hdf5, open_pair
from sentinode.tiles.listing import Folder, Listing, as_text, is_store, is_text, look_into
from sentinode.tiles.shards import list_stores
from sentinode.tiles.tables import IMAGE_EXTENSIONS, as_label, read_columns, read_labels, without_extension

FIXED_CLASSES = frozenset({"0", "1", ""})
"""Labels of the Kaggle and PCam tiles; 1 is positive."""


def list_sources(sources: Iterable[str | Path], settings: PackSettings, scratch: ExitStack) -> list[Listing]:
    """Return one listing a source (a folder of HDF5 pairs gives one a pair), with ids that are unique over all of them.

    Parameters
    ----------
    sources
        Folders, `*_x.h5` files, CSV manifests, stores.
    settings
        `labels` and `ids` are used here.
    scratch
        Keeps HDF5 files and their unpacked copies open; whoever gave it closes it.

    Raises
    ------
    SourceProblem
        If a source is nothing known, holds no image, has a broken table, or an id stands for two tiles; or if shards do not
        belong together.
    StoreProblem
        If a store is not finished or has been changed.
    UsageProblem
        If no source is given, one is named twice, or `labels` does not fit.
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise UsageProblem("at least one SOURCE", "none", "name a folder, a *_x.h5 file or a CSV manifest")
    resolved = [path.resolve() for path in paths]
    twice = next((path for i, path in enumerate(resolved) if path in resolved[:i]), None)
    if twice is not None:
        raise UsageProblem("each SOURCE once", f"{shown(twice)} twice", "remove one")
    nothing = next((path for path in resolved if not path.exists()), None)
    if nothing is not None:
        raise SourceProblem(f"a source at {shown(nothing)}", "nothing", "check the path")
    stores = list_stores([path for path in resolved if is_store(str(path))])
    listings: list[Listing] = []
    for path in resolved:
        listings += stores[path] if path in stores else list_one(path, settings, scratch)
    plain = [listing for listing in listings if listing.kind == "folder" and listing.stored is None]
    if settings.labels is not None:
        if len(plain) != 1:
            raise UsageProblem(
                "one plain folder of images for --labels",
                f"{len(plain)} among the sources",
                "pack it alone, or write a manifest (path,label)",
            )
        label_folder(plain[0], Path(settings.labels))
    name_apart(listings)
    for listing in listings:
        if settings.ids == "path" and listing.kind != "hdf5":
            prefix = f"{listing.name}/" if len(listings) > 1 else ""
            listing.ids = [prefix + without_extension(listing.prefix + path) for path in listing.paths]
        listing.sort()
    check_unique(listings)
    return listings


def list_one(path: Path, settings: PackSettings, scratch: ExitStack) -> list[Listing]:
    """Recognise one source by what lies there."""
    if path.is_file():
        if is_hdf5(path.name):
            return [list_pair(path, scratch)]
        if path.suffix.lower() == ".csv":
            return [list_manifest(path)]
        raise SourceProblem(
            "a folder, a *_x.h5 file or a .csv manifest",
            f"the file {shown(path)}",
            "name the folder that it lies in, or one of these",
        )
    if (path / "train_labels.csv").is_file() and (path / "train").is_dir():
        if settings.labels is not None:
            raise UsageProblem(
                "--labels for a plain folder only", "a Kaggle folder, which has its own", "leave --labels out, or name its train/"
            )
        listing = list_folder(path / "train", "kaggle")
        listing.name, listing.fixed, listing.prefix = path.name or "kaggle", True, "train/"
        label_folder(listing, path / "train_labels.csv")
        return [listing]
    pairs = find_pairs(path)
    if pairs:
        return [list_pair(pair, scratch) for pair in pairs]
    inside = look_into(str(path))
    if inside.folders and not inside.images:
        return [list_classes(path, inside)]
    return [list_folder(path, "folder")]


def list_folder(path: Path, kind: str) -> Listing:
    """List a folder of images, as yet without labels."""
    inside = look_into(str(path))
    if inside.folders and inside.images:
        raise SourceProblem(
            f"images or class folders in {shown(path)}",
            f"both ({shown(inside.images[0])} and {shown(inside.folders[0])}{os.sep})",
            "keep one sort, or name the folders one by one",
        )
    if not inside.images:
        raise SourceProblem(
            f"images (.tif, .tiff, .png, .jpg, .jpeg) in {shown(path)}",
            f"{inside.ignored + len(inside.refused)} other files{f', and {inside.stores} stores' if inside.stores else ''}",
            "name the stores one by one, as DIR/*.store does" if inside.stores else "name another folder",
        )
    count = len(inside.images)
    stems = [name[:-4] if name[-4:] in IMAGE_EXTENSIONS and len(name) > 4 else without_extension(name) for name in inside.images]
    listing = Listing(path.name, kind, f"{path}{os.sep}", "", stems, inside.images, [""] * count, [""] * count, labelled=False)
    take_note(listing, inside, "")
    return listing


def list_classes(path: Path, inside: Folder) -> Listing:
    """List class folders: a folder's name is the label of what lies in it, at any depth; deeper links to folders stay out."""
    listing = Listing(path.name, "class folders", f"{path}{os.sep}")
    take_note(listing, inside, "")
    for label in sorted(inside.folders):
        waiting = [label]
        if not is_text(label):
            listing.refuse(label, "folder name is not UTF-8")
            continue
        while waiting:
            folder = waiting.pop()
            look = look_into(f"{path}{os.sep}{folder}")
            for name in look.images:
                listing.add(without_extension(name), f"{folder}/{name}", label)
            take_note(listing, look, f"{folder}/")
            for name in look.folders:
                if os.path.islink(f"{path}{os.sep}{folder}{os.sep}{name}") or not is_text(name):  # noqa: PTH114
                    listing.refuse(f"{folder}/{name}", "folder is a link or has no UTF-8 name")
                else:
                    waiting.append(f"{folder}/{name}")
    if not listing.ids:
        raise SourceProblem(
            f"class folders with images (.tif, .tiff, .png, .jpg, .jpeg) in {shown(path)}",
            f"{len(inside.folders)} folders without one",
            "name the folder that holds the images or the class folders",
        )
    return listing


def take_note(listing: Listing, look: Folder, prefix: str) -> None:
    """Enter what one look into a folder left out."""
    listing.ignored += look.ignored
    for name in look.refused:
        taken = os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122
        reason = "format not taken" if not taken else "not a regular file" if is_text(name) else "file name is not UTF-8"
        listing.refuse(prefix + name, reason)


def label_folder(listing: Listing, table: Path) -> None:
    """Give the tiles of a folder the labels of a CSV by id; a label that met no image, or is no class, goes to quarantine."""
    labels = read_labels(table)
    keep = []
    listing.labelled = True
    for i, name in enumerate(listing.ids):
        label = labels.pop(name, "")
        if listing.fixed and label not in FIXED_CLASSES:
            listing.refuse(listing.place(i), "label is not a class", f"{label[:40]} in {table.name}")
        else:
            keep.append(i)
            listing.labels[i] = label
    if not keep:
        entry = listing.quarantined[-1]
        raise SourceProblem(
            f"labels 0 and 1 in {shown(table)}", f"none such, the last {shown(entry.detail)}", "write 1 for tumour and 0 for none"
        )
    if labels and len(keep) == len(listing.ids) and not any(listing.labels):
        raise SourceProblem(
            f"ids in {shown(table)} that are names of images, as {shown(listing.ids[0])}",
            f"{len(labels):,} labels for others, as {shown(next(iter(labels), ''))}",
            "write the file's name, with or without its extension, into the column id",
        )
    for name in labels:
        listing.refuse(name, "no image for label", f"listed in {table.name}")
    listing.ids, listing.paths = [listing.ids[i] for i in keep], [listing.paths[i] for i in keep]
    listing.labels, listing.groups = [listing.labels[i] for i in keep], [""] * len(keep)


def list_manifest(table: Path) -> Listing:
    """List the images that a CSV names: path (from the folder of the CSV), label, and group if there is such a column."""
    root = table.parent
    listing = Listing(table.stem, "manifest", f"{root}{os.sep}")
    for line, (cell, label, group) in read_columns(table, ("path", "label"), ("group",)):
        path = cell.strip().replace("\\", "/") if os.name == "nt" else cell.strip()
        if os.path.isabs(path) and Path(path).is_relative_to(root):  # noqa: PTH117
            path = Path(path).relative_to(root).as_posix()
        extension = os.path.splitext(path)[1].lower()  # noqa: PTH122
        if extension not in IMAGE_EXTENSIONS:
            listing.refuse(path, "format not taken", f"line {line} of {table.name}")
        elif "\0" in path or not (root / path).is_file():
            listing.refuse(path, "no image for label", f"line {line} of {table.name}")
        else:
            listing.add(without_extension(PurePosixPath(path).name), path, as_label(label), group.strip())
    if not listing.ids:
        raise SourceProblem(
            f"paths of images in {shown(table)}",
            f"{len(listing.quarantined)} rows, none with an image",
            "write paths relative to the CSV",
        )
    return listing


def list_pair(path: Path, scratch: ExitStack) -> Listing:
    """List a PCam HDF5 pair; the id is the file's stem and the index, the order is the file's."""
    pair = open_pair(path, scratch)
    listing = Listing(pair.stem, "hdf5", "", fixed=True, pair=pair)
    width = max(len(str(pair.n - 1)), 6)
    for index, label in enumerate(pair.labels):
        if label in (0, 1):
            listing.add(
                f"{pair.stem}_{index:0{width}d}", f"{pair.name}#{index}", str(label), pair.groups[index] if pair.groups else ""
            )
            listing.indices.append(index)
        else:
            listing.refuse(f"{pair.name}#{index}", "label is not a class", f"{label} in row {index} of y")
    return listing


def name_apart(listings: list[Listing]) -> None:
    """Number sources of the same name, so that `source` in the rows says which it was."""
    taken: set[str] = set()
    for listing in listings:
        name = as_text(listing.name) or "source"
        names = [name, *(f"{name}-{number}" for number in range(2, len(listings) + 1))]
        listing.name = next(free for free in names if free not in taken)
        taken.add(listing.name)
        listing.quarantined = [entry._replace(source=listing.name) for entry in listing.quarantined]


def check_unique(listings: list[Listing]) -> None:
    """Raise SourceProblem if two tiles have one id, naming both places."""
    total = sum(len(listing.ids) for listing in listings)
    known = {name for listing in listings for name in listing.ids}
    if len(known) == total:
        return
    places: dict[str, str] = {}
    for listing in listings:
        for i, name in enumerate(listing.ids):
            place = listing.whereabouts(i)
            if name in places:
                raise SourceProblem(
                    "each id once",
                    f"{shown(name)} for {shown(places[name])} and for {shown(place)}",
                    "rename one, or name tiles by their path with --ids path",
                )
            places[name] = place

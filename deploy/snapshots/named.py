"""Snapshots by what people name: a folder of them, the storage that has it, or one of them."""

from __future__ import annotations

from ...proto.errors import InvalidRequest, RowloomError
from ...proto.snapshots.chain import no_snapshot
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.listing import ListedSnapshot, list_snapshots
from ...proto.snapshots.manifest import MANIFEST
from ..launch.keeping import snapshots_of

LAYOUT, LOGS, SNAPSHOTS = "layout.json", "logs", "snapshots"  # what a storage has


def snapshots_in(folder: str) -> tuple[ListedSnapshot, ...]:
    """As `list_snapshots`, with their files; none where there is no such folder. Raises RowloomError."""
    return () if SnapshotFolder(folder).absent() == "does not exist" else list_snapshots(folder, files=True)


def folder_of_snapshots(url: str) -> str:
    """The folder of snapshots that is meant by its own name, or by that of the storage that has it.

    Raises:
        InvalidRequest: it does not exist, is a file, is one snapshot, or has logs; the message says what is right.
        Unavailable: the store does not answer.
    """
    folder = SnapshotFolder(url)
    names = folder.folders()
    if folder.size(MANIFEST) is not None:
        raise InvalidRequest(
            f"{folder.url} is one snapshot, not a folder of them: `rowloom verify {folder.url}` says what is in it, "
            f"`rowloom snapshots {folder.beside('').url}` lists those beside it"
        )
    if _is_storage(folder, names):
        return snapshots_of(folder.url)
    if any(name.startswith("epoch-") for log in names[:1] for name in folder.below(log).folders()):
        beside = folder.beside(SNAPSHOTS)
        where = "" if beside.absent() else f": the snapshots beside them are in {beside.url}"
        raise InvalidRequest(f"{folder.url} has logs of a cluster, and no snapshots{where}")
    return folder.url


def _is_storage(folder: SnapshotFolder, names: list[str]) -> bool:
    """Whether a folder is a cluster's storage, by what is in it."""
    if SNAPSHOTS in names:
        return folder.below(SNAPSHOTS).size(MANIFEST) is None
    return LOGS in names or folder.size(LAYOUT) is not None


def no_snapshot_in_words(folder: SnapshotFolder) -> str:
    """Why a folder without a manifest is no snapshot, and which there are, if it is one that has some."""
    try:
        meant = folder_of_snapshots(folder.url)
        found = [one for one in snapshots_in(meant) if one.manifest is not None]
    except InvalidRequest as e:
        return str(e)
    except RowloomError:  # a store that can be asked for a file, and not for a list
        found, meant = [], ""
    if not found:
        return f"{no_snapshot(folder)}; `rowloom snapshots FOLDER` lists those that are in a folder"
    what = "has snapshots in it" if meant == folder.url else f"is a storage, whose snapshots are in {meant}"
    best = ([one for one in found if not one.problem] or found)[-1]
    newest = f"the newest is {best.url}; `rowloom snapshots {meant}` lists all"
    return f"{folder.url} {what}, and one of them is wanted: {newest}"


def others_in_words(damaged: SnapshotFolder, why: str) -> str:
    """What can be restored in place of a damaged snapshot: the newest beside it that does not need what is damaged.

    why: what is wrong, with the file's name; it may be of a snapshot that this one was made upon.
    """
    above = damaged.beside("")
    try:
        listed = snapshots_in(above.url)
    except RowloomError:  # a store that can be asked for a file, and not for a list
        return "`rowloom snapshots FOLDER` lists those that are in a folder"
    mine = next((one.manifest for one in listed if one.url == damaged.url and one.manifest is not None), None)
    bad = {one.id for one in listed if one.url == damaged.url or f"{one.url}/" in why}
    good = [
        one for one in listed if one.manifest is not None and not one.problem and bad.isdisjoint(one.lineage)
    ]
    older = [one for one in good if mine and one.manifest and one.manifest.created_s <= mine.created_s]
    lists = f"`rowloom snapshots {above.url}` lists all"
    if not good:
        return f"No other snapshot beside it can be restored; {lists}"
    best, which = (older[-1], "before it") if older else (good[-1], "beside it")
    return f"The newest {which} that has all its files is {best.url}: `rowloom verify` reads them; {lists}"


def staying_in_words(storage: str) -> str:
    """Of a cluster whose rows are removed: which snapshots its storage has still; empty: none."""
    folder = snapshots_of(storage)
    try:
        found = list_snapshots(folder)
    except InvalidRequest:  # no such folder: none was taken
        return ""
    except RowloomError:
        return f"; snapshots, if there are any, stay in {folder}"
    if not found:
        return ""
    stay = "1 snapshot stays" if len(found) == 1 else f"{len(found)} snapshots stay"
    bad = [one.id for one in found if one.manifest is None]
    cannot = f", of which {', '.join(bad)} cannot be read" if bad else ""
    return f"; {stay} in {folder}{cannot}"

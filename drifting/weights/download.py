"""References to weights, and the files behind them: a local folder, a repository of the hub, or one file of the web.

A reference is a local folder or `hf://OWNER/REPO[@REVISION][/FOLDER]`. Repositories go through huggingface_hub, so its
cache, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always do. Files appear under their names whole or not
at all; each is compared with the checksum under which it is kept, every time it is asked for.
"""

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import get_session, hf_hub_download, parse_hf_uri
from huggingface_hub.errors import HfUriError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils import hf_raise_for_status

from drifting.config.paths import is_address, is_place
from drifting.errors import HubError, InputError
from drifting.runs.files import atomic_path, sha256
from drifting.runs.places import cache_folder, local_copy, place
from drifting.weights.catalogue import RELEASED_FOLDERS, RELEASED_REPO
from drifting.weights.errors import HUB_FAILURES, explained

logger = logging.getLogger("drifting")

HUB_SCHEME = "hf://"

DOWNLOAD_AGAIN = "run the same command to download it again"


@dataclass(frozen=True)
class HubFolder:
    """A folder of a repository.

    Attributes:
        reference: as it was given.
        repo: `OWNER/REPO`.
        revision: branch, tag or commit; None = the default branch.
        folder: inside the repository; '' = its root.
    """

    reference: str
    repo: str
    revision: str | None
    folder: str


@dataclass(frozen=True)
class Fetched:
    """A local folder that has the files asked for.

    Attributes:
        path: the folder.
        commit: the commit of the repository it comes from; None for a folder that was local already.
    """

    path: Path
    commit: str | None


def parse_reference(reference: str) -> HubFolder | Path:
    """The folder that a reference names, of the hub or local; a local one need not exist.

    Raises:
        InputError: a malformed `hf://` reference, or a name that the released repository is known not to have.
    """
    if not reference.startswith(HUB_SCHEME):
        if not is_place(reference):
            raise InputError(f"{reference}: is no address that is served: give {HUB_SCHEME}OWNER/REPO, or a folder")
        return _copy(reference) if is_address(reference) else Path(reference).expanduser()
    try:
        uri = parse_hf_uri(reference.rstrip("/"))
        if uri.type != "model":
            raise HfUriError(reference, f"it names a {uri.type}")
        if {".", ".."} & set(uri.path_in_repo.split("/")):
            raise HfUriError(reference, "a folder must not have . or .. in it")
    except HfUriError as error:
        reason = " ".join(error.msg.split()).rstrip(".")
        raise InputError(
            f"{reference}: not a reference ({reason}): give {HUB_SCHEME}OWNER/REPO[@REVISION][/FOLDER]"
        ) from error
    folder = uri.path_in_repo
    if uri.id == RELEASED_REPO:
        folder = RELEASED_FOLDERS.get(folder, folder)
        if folder not in RELEASED_FOLDERS.values():
            known = list(RELEASED_FOLDERS)
            close = difflib.get_close_matches(folder.rpartition("/")[2], known, n=1)
            hint = f"did you mean {HUB_SCHEME}{RELEASED_REPO}/{close[0]}? " if close else ""
            raise InputError(f"{reference}: no such released weights; {hint}known names: {', '.join(known)}")
    return HubFolder(reference, uri.id, uri.revision, folder)


def _copy(address: str) -> Path:
    """The copy on this machine of weights in an object store."""
    there = place(address)
    if (there / "checkpoints").is_dir():
        raise InputError(
            f"{address}: is a run; give its encoder ({address}/encoder), or what `drifting export` makes of it"
        )
    try:
        return local_copy(there)
    except FileNotFoundError as error:
        raise InputError(f"{address}: there is no such folder") from error


def fetch(reference: str | Path | HubFolder, names: Sequence[str], first_of: Sequence[str] = ()) -> Fetched:
    """The folder that a reference names, on this machine; of a repository exactly the files asked for are downloaded.

    All files come from one commit. A local folder is not looked into.

    Args:
        reference: see the head of this module.
        names: files of that folder, which must be there.
        first_of: files of which the first that is there comes too; without a connection, the first in the cache.

    Raises:
        InputError: the reference is malformed, or there is no such folder, repository, revision or file.
        HubError: no network or no access and not in the cache, the disk is full, or what came is damaged, in which
            case it has been removed.
    """
    place = parse_reference(reference) if isinstance(reference, str) else reference
    if isinstance(place, Path):
        if not place.is_dir():
            raise InputError(f"{reference}: there is no such folder")
        return Fetched(place, None)
    found = None
    for name in names:
        found = _fetch_file(place, name)
        place = replace(place, revision=found.commit)
    unreachable: HubError | None = None
    for name in first_of:
        try:
            return _fetch_file(place, name)
        except InputError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise
        except HubError as error:
            if not isinstance(error.__cause__, LocalEntryNotFoundError):
                raise
            unreachable = unreachable or error
    if found is None:
        raise unreachable or InputError(f"{place.reference}: has none of {', '.join(first_of)}")
    return found


def _fetch_file(place: HubFolder, name: str) -> Fetched:
    try:
        path = Path(hf_hub_download(place.repo, name, subfolder=place.folder or None, revision=place.revision))
    except HUB_FAILURES as error:
        raise explained(error, f"{place.reference}: {name}") from error
    _check_blob(path)
    depth = len(Path(place.folder, name).parts)  # below SNAPSHOTS/COMMIT
    return Fetched(path.parent, path.parents[depth - 1].name)


def _check_blob(path: Path) -> None:
    """Compares a file of huggingface_hub's cache with the checksum that it is named by there.

    It is a link to a file named by its SHA-256, or by the checksum of git for a small one. Where links are impossible
    (some file systems), there is nothing to compare with, and its size was checked when it came.
    """
    if not path.is_symlink():
        return
    # One link only: that file may in turn be a link, into a store that repositories share.
    blob = path.parent / os.readlink(path)
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        found = sha256(path)
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:  # the server names files in another way
        return
    if found != blob.name:
        for damaged in (path, blob.resolve(), blob):
            damaged.unlink(missing_ok=True)
        raise HubError(f"{path}: damaged (checksum {found}, expected {blob.name}) and removed: {DOWNLOAD_AGAIN}")


def fetch_url(url: str, checksum: str) -> Path:
    """One file of the web, in `cache_folder()`.

    Args:
        url: whose last part is the file's name.
        checksum: SHA-256 of its content, in hexadecimal.

    Raises:
        HubError: no network and not in the cache, the disk is full, or what came has another checksum and has been
            removed.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    if path.is_file() and sha256(path) == checksum:
        return path
    logger.info("downloading %s", url)
    with atomic_path(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with get_session().stream("GET", url, follow_redirects=True) as response, temporary.open("wb") as file:
                hf_raise_for_status(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
        except HUB_FAILURES as error:
            raise explained(error, url) from error
        if (found := sha256(temporary)) != checksum:
            raise HubError(f"{url}: damaged (SHA-256 {found}, expected {checksum}) and removed: {DOWNLOAD_AGAIN}")
    return path

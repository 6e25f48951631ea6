"""Paths into object stores: what the project does with a `pathlib.Path`, over fsspec.

A store has no folders, no renaming and no appending; it writes an object whole or not at all. A folder is what begins
with its name, and is there as soon as something is in it. Nothing that is listed is remembered: other processes write.
"""

import fcntl
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from etils.epath.gpath import PosixGPath

from drifting.errors import DriftingError, InputError, MachineError, one_line

TRANSFERS = 16
"""Objects that are copied at a time."""

EXTRAS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""The library that serves a scheme, and the extra of this package that installs it."""

CREDENTIALS = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
"""Where the libraries look for credentials."""

REFUSED_ACCESS = ("401", "403", "anonymous", "credential", "forbidden", "access denied", "accessdenied", "token")
"""Words, in small letters, of what stores and their libraries say to whom they do not let in."""


@contextmanager
def asking(path: object, scheme: str) -> Iterator[None]:
    """What keeps a store from answering becomes a `MachineError`; that something is not there stays what it is."""
    try:
        yield
    except (DriftingError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:  # three libraries and their transports each raise their own
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        refused = isinstance(error, PermissionError) or any(word in reason.lower() for word in REFUSED_ACCESS)
        said = f"the store {'does not let this user in' if refused else 'cannot be used now'} ({reason})"
        remedy = f"give credentials ({CREDENTIALS[scheme]})" if refused else "mend that"
        safe = "nothing is begun anew, and what is there stays as it is"
        raise MachineError(f"{path}: {said}; {safe}: {remedy}, and run the same command again") from error


@cache
def _filesystem(scheme: str, process: int) -> Any:
    """The client of a store; it has threads, so a forked process makes its own."""
    import fsspec

    options = {"finalize_on_close": True} if scheme == "gs" else {}
    return fsspec.filesystem(scheme, skip_instance_cache=True, **options)


class StorePath(PosixGPath):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """`gs://BUCKET/KEY` or `s3://BUCKET/KEY`.

    All methods raise `MachineError` where the store cannot be asked: that never passes for "is not there".
    """

    @property
    def scheme(self) -> str:
        """`gs` or `s3`."""
        return str(self.parts[1])

    @property
    def bucket(self) -> str:
        """The bucket."""
        return str(self.parts[2])

    @property
    def key(self) -> str:
        """Bucket and key, as the client takes them."""
        return "/".join(self.parts[2:])

    def opened(self) -> "StorePath":
        """This path, once the store's library is there.

        Raises:
            InputError: it is not.
        """
        library, extra = EXTRAS[self.scheme]
        try:
            __import__(library)
        except ImportError as error:
            raise InputError(f"{self}: needs {library}: pip install 'drifting[{extra}]'") from error
        import fsspec.config

        # Of Orbax's client as well: what was listed once would be all that there is, whatever others write or remove.
        fsspec.config.conf.setdefault(self.scheme, {})["use_listings_cache"] = False
        return self

    def require_bucket(self) -> None:
        """Asks for anything in the bucket.

        Raises:
            InputError: there is no such bucket.
            MachineError: it cannot be asked now.
        """
        try:
            with self._asking():
                if self.scheme == "gs":
                    self._client.call("GET", "b/{}/o", self.bucket, maxResults=1, json_out=True)
                else:
                    self._client.call_s3("list_objects_v2", Bucket=self.bucket, MaxKeys=1)
        except FileNotFoundError as error:
            raise InputError(f"{self}: there is no bucket {self.bucket}; make it, or give another") from error

    @property
    def _client(self) -> Any:
        return _filesystem(self.scheme, os.getpid())

    def _asking(self) -> Any:
        return asking(self, self.scheme)

    # --- what there is ------------------------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any] | None:
        with self._asking():
            try:
                found: dict[str, Any] = self._client.info(self.key)
                return found
            except (FileNotFoundError, NotADirectoryError):
                return None

    def exists(self) -> bool:
        """Whether there is such an object, or one below it."""
        return self._info() is not None

    def is_dir(self) -> bool:
        """Whether something begins with this path and a slash."""
        found = self._info()
        return found is not None and found["type"] == "directory"

    def is_file(self) -> bool:
        """Whether there is such an object."""
        found = self._info()
        return found is not None and found["type"] == "file"

    def is_symlink(self) -> bool:
        """False: a store has no links."""
        return False

    def stat(self) -> os.stat_result:
        """Kind, size in bytes and time of the last write, as far as the store has them."""
        found = self._info()
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), str(self))
        kind = stat.S_IFDIR if found["type"] == "directory" else stat.S_IFREG
        written = found.get("mtime") or found.get("LastModified") or 0
        seconds = written.timestamp() if hasattr(written, "timestamp") else float(written)
        return os.stat_result((kind, 0, 0, 1, 0, 0, found.get("size") or 0, seconds, seconds, seconds))

    def iterdir(self) -> Iterator["StorePath"]:
        """What lies directly below."""
        with self._asking():
            try:
                names = [entry["name"] for entry in self._client.ls(self.key, detail=True)]
            except FileNotFoundError:
                names = []
        own = len(self.key) + 1
        for name in sorted({name[own:].strip("/") for name in names} - {""}):
            yield self / name

    def _found(self) -> dict[str, dict[str, Any]]:
        """All objects below this path by their names from here, with what the store knows of them."""
        with self._asking():
            found = self._client.find(self.key, detail=True)
        below = f"{self.key}/"
        return {name[len(below) :]: about for name, about in sorted(found.items()) if name.startswith(below)}

    def rglob(self, pattern: str) -> Iterator["StorePath"]:
        """The objects below whose last part fits."""
        return (self / name for name in self._found() if fnmatchcase(PurePosixPath(name).name, pattern))

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """What fits a pattern of as many parts, without `**`."""
        wanted = PurePosixPath(pattern).parts
        found = {PurePosixPath(name).parts[: len(wanted)] for name in self._found()}
        fits = [parts for parts in found if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))]
        return (self.joinpath(*parts) for parts in sorted(fits))

    def absolute(self) -> "StorePath":
        """The path itself."""
        return self

    def expanduser(self) -> "StorePath":
        """The path itself."""
        return self

    def checksums(self) -> dict[str, str]:
        """The store's own checksum of each object below this path: crc32c of `gs://`, the ETag of `s3://`."""
        return {name: self._checksum(about) for name, about in self._found().items()}

    def _checksum(self, about: dict[str, Any]) -> str:
        found = about.get("crc32c") if self.scheme == "gs" else about.get("ETag")
        return f"{'crc32c' if self.scheme == 'gs' else 'etag'}:{str(found).strip(chr(34))}:{about.get('size')}"

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """The content of an object."""
        with self._asking():
            content: bytes = self._client.cat_file(self.key)
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content of an object as text, in UTF-8 unless told otherwise."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *, encoding: str | None = None, **options: Any) -> IO[Any]:
        """An object to read; writing goes through `atomic_path`, and growing files through `Growing`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self}: mode {mode!r}: an object is written whole, see drifting.runs.files.atomic_path")
        with self._asking():
            raw = self._client.open(self.key, "rb")
        reader = io.BufferedReader(_Reads(raw, self), buffer_size=1 << 20)
        return reader if mode == "rb" else io.TextIOWrapper(reader, encoding=encoding or "utf-8")

    def download(self, target: Path) -> None:
        """Copies the object, or all below this path, to a file or folder of this machine."""
        if self.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._asking():
                self._client.get_file(self.key, str(target))
            return
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: (self / name).download(target / name), self._found()))

    def copied(self, folder: Path) -> Path:
        """A copy in `folder`, in a place that its checksums name: it is made once, and again when the content changes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        about = self._info()
        if about is None:
            raise FileNotFoundError(2, os.strerror(2), str(self))
        known = self.checksums() if about["type"] == "directory" else {"": self._checksum(about)}
        digest = hashlib.sha256(repr((str(self), sorted(known.items()))).encode()).hexdigest()[:16]
        whole = folder / digest / self.name
        if not whole.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f".{digest}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of a machine wait for the one that downloads
                if not whole.exists():
                    begun = folder / f".{digest}.tmp"
                    shutil.rmtree(begun, ignore_errors=True)
                    self.download(begun / self.name)
                    os.replace(begun, whole.parent)
        return whole

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._asking():
                yield
        except FileNotFoundError:  # there is nothing but the bucket that could be missing
            self.require_bucket()
            raise

    # --- writing ------------------------------------------------------------------------------------------------------

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something is in it."""

    def upload(self, source: Path, last: str | None = None) -> None:
        """Writes a file, or all files of a folder, of this machine. `last`: the file that goes after the others."""
        if source.is_file():
            with self._writing():
                self._client.put_file(str(source), self.key)
            return
        names = [str(path.relative_to(source)) for path in sorted(source.rglob("*")) if path.is_file()]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: (self / name).upload(source / name), [name for name in names if name != last]))
        if last in names:
            (self / str(last)).upload(source / str(last))

    def write_bytes(self, data: bytes) -> int:
        """Writes an object, whole or not at all."""
        with self._writing():
            self._client.pipe_file(self.key, bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        """Writes an object, whole or not at all, in UTF-8 unless told otherwise."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Writes an empty object."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes an object."""
        try:
            with self._asking():
                self._client.rm_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False, first: str | None = None) -> None:
        """Removes all below this path. `first`: the object that goes before the others, which do not count without."""
        names = list(self._found())
        if first in names:
            (self / str(first)).unlink(missing_ok=True)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: (self / name).unlink(missing_ok=True), names))

    def move_tree(self, target: "StorePath", first: str) -> None:
        """Copies all below this path, in the store, and removes it. `first`: what is removed first, see `rmtree`."""

        def copy(name: str) -> None:
            with self._asking():
                self._client.cp_file((self / name).key, (target / name).key)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(copy, self._found()))
        self.rmtree(first=first)


class _Reads(io.RawIOBase):
    """Reads of an object; a store that is gone meanwhile is a `MachineError`."""

    def __init__(self, raw: Any, path: StorePath) -> None:
        self._raw, self._path = raw, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def readinto(self, buffer: Any) -> int:
        with asking(self._path, self._path.scheme):
            data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

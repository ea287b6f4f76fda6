"""Downloads from the hub: resumed after a cut, verified, and put where its client looks. No torch.

The hub's own client starts a cut file again from its beginning, so large files are read here, into
`blobs/HASH.part`, which stays when the download is cut. The hash of a file is its name on the hub,
so what arrived wrong is noticed; it is counted while the bytes come.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub as hub
import huggingface_hub.constants  # which the package does not load by itself

from rqchat.engine.events import Event, LoadProgress, Notice
from rqchat.engine.foreign import cause_of
from rqchat.engine.model_files.gguf.gguf_remote import RemoteFiles
from rqchat.engine.model_files.http_range import is_of_hub
from rqchat.engine.model_files.parallel_parts import NoRangesError, read_parts
from rqchat.engine.proxies import proxy_for, tls_context
from rqchat.engine.sizes import format_bytes
from rqchat.errors import ModelError

if TYPE_CHECKING:
    from hashlib import _Hash as Digest  # the type has no public name

__all__ = ["Pulled", "RemoteFile", "hub_errors", "local_folder", "pull"]

_PIECE_BYTES = 2**20
_SPARE_BYTES = 2**28  # what a full disk should keep for others
_RESTARTS = 5  # of a file whose server sends it from the beginning alone
_TIMEOUT_S = 30.0
_REPORT_S = 0.25
_BEGINNING_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub; `sha256` is empty for small ones, which lie in its git repository."""

    name: str
    size_bytes: int
    sha256: str
    git_hash: str

    @property
    def key(self) -> str:
        """The name of the file's blob in the cache of the hub's client."""
        return self.sha256 or self.git_hash


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull left on this machine: the folder, its files' bytes, and those that were new."""

    folder: Path
    commit: str
    files: int
    size_bytes: int
    downloaded_bytes: int


def local_folder(repository: str) -> Path | None:
    """Where the newest revision seen of `repository` lies on this machine, whole or not."""
    download = hub.snapshot_download  # with it the package loads its errors
    try:
        return Path(download(repository, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError):
        return None


def pull(
    repository: str,
    patterns: Sequence[str],
    on_event: Callable[[Event], None],
    check: Callable[[RemoteFiles], None] | None = None,
) -> Pulled:
    """Brings the files of `repository` that match `patterns` here, and verifies every one.

    `check` gets the files before any is downloaded; what it raises ends the pull.

    Raises:
        ModelError: no such model, a login is missing, the disk is full, the connection broke for
            good, or a file is not what the hub says it is.
    """
    with hub_errors(repository):
        info = hub.HfApi().model_info(repository, files_metadata=True, timeout=_TIMEOUT_S)
        files = [
            RemoteFile(f.rfilename, f.size or 0, f.lfs.sha256 if f.lfs else "", f.blob_id or "")
            for f in info.siblings or ()
            if any(fnmatch.fnmatch(f.rfilename, pattern) for pattern in patterns)
        ]
        if not files:
            raise ModelError(f"{repository} holds no files such as {', '.join(patterns)}")
        job = _Pull(repository, str(info.sha), files, on_event)
        if check is not None:
            check([(job.url(file), file.size_bytes, job.beginning(file)) for file in files])
        return job.run()


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence that says what to do."""
    _ = hub.HfApi  # with it the package loads its errors
    _prepare_client()
    errors: Any = hub.errors
    # The bases are OSError and the error of the HTTP client that this version of the hub's uses
    broken: tuple[type[BaseException], ...] = (
        http.client.HTTPException,
        *errors.HfHubHTTPError.__bases__,
    )
    try:
        yield
    except ImportError as error:  # of the client, for any SOCKS proxy that the environment names
        raise ModelError(
            f"{name} could not be downloaded: {cause_of(error)}; rqchat goes through http://"
            " proxies, so unset ALL_PROXY and set HTTPS_PROXY to such a one"
        ) from None
    except errors.GatedRepoError:
        raise _login_needed(name) from None
    except urllib.error.HTTPError as error:
        refused = error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
        if refused and is_of_hub(error):
            raise _login_needed(name) from None
        raise _failed(name, error, error.code, error.headers) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"there is no model {name!r} on the hub, or it is private; check the spelling, such as"
            " google/gemma-4-31B-it"
        ) from None
    except errors.HFValidationError as error:
        raise ModelError(f"{name!r} is no model name: {error}") from None
    except errors.OfflineModeIsEnabled:
        raise ModelError(
            f"{name} is not whole on this machine, and HF_HUB_OFFLINE forbids to download it"
        ) from None
    except broken as error:
        response: Any = getattr(error, "response", None)
        code, headers = getattr(response, "status_code", 0), getattr(response, "headers", {})
        raise _failed(name, error, code, headers) from None


def _prepare_client() -> None:
    """Raises UsageError where the environment names a proxy or certificates that are of no use."""
    proxy_for(hub.constants.ENDPOINT)
    tls_context()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and not os.environ.get("SSL_CERT_DIR"):
        # The only variable that the hub's client reads; `tls_context` reads it first as well
        os.environ.setdefault("SSL_CERT_FILE", bundle)


def _failed(name: str, error: BaseException, code: int, headers: Any) -> ModelError:
    again = f"run 'rqchat pull {name}', which goes on where it stopped"
    if code == http.client.TOO_MANY_REQUESTS:
        after_s = (headers or {}).get("Retry-After")
        wait = f"{after_s} seconds" if after_s else "some minutes"
        return ModelError(
            f"{name} could not be downloaded: the hub has had too many requests from here; wait"
            f" {wait} and {again}; it allows more after 'hf auth login'"
        )
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ModelError(f"{name} could not be downloaded: {reason}; check the network and {again}")


def _login_needed(name: str) -> ModelError:
    if hub.get_token():
        return ModelError(
            f"{name} is not open to your token: accept the model's licence on"
            f" {hub.constants.ENDPOINT}/{name} with the account that the token is of, or log in as"
            " another one with 'hf auth login'"
        )
    return ModelError(
        f"{name} asks for a login: accept its licence on {hub.constants.ENDPOINT}/{name}, then run"
        " 'hf auth login' or set HF_TOKEN"
    )


class _Pull:
    """One download of several files."""

    def __init__(
        self,
        repository: str,
        commit: str,
        files: Sequence[RemoteFile],
        on_event: Callable[[Event], None],
    ) -> None:
        self.repository, self.commit, self.files = repository, commit, files
        self.on_event = on_event
        self.blobs = (
            Path(hub.constants.HF_HUB_CACHE)
            / hub.constants.REPO_ID_SEPARATOR.join(("models", *repository.split("/")))
            / "blobs"
        )
        self.total = sum(file.size_bytes for file in files)
        self.done = self.fetched = 0
        self._reported_s = 0.0
        self._begun_s = time.perf_counter()

    def run(self) -> Pulled:
        self.blobs.mkdir(parents=True, exist_ok=True)
        missing_bytes = self._missing_bytes()
        self._check_disk(missing_bytes)
        if missing_bytes:
            self.on_event(
                Notice(
                    f"downloading {self.repository}: {format_bytes(missing_bytes)} into"
                    f" {self.blobs.parent}; a cut does no harm, it goes on where it stopped"
                )
            )
        for file in self.files:
            self._bring(file)
            # The client finds the blob under its key, and only links it into the snapshot
            linked = hub.hf_hub_download(self.repository, file.name)
        folder = Path(linked)
        for _ in Path(file.name).parts:
            folder = folder.parent
        return Pulled(folder, self.commit, len(self.files), self.total, self.fetched)

    def _missing_bytes(self) -> int:
        here = sum(
            min(path.stat().st_size, file.size_bytes)
            for file in self.files
            for path in (self.blobs / file.key, self._part(file))
            if path.is_file()
        )
        return self.total - here

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.blobs).free
        if needed and needed + _SPARE_BYTES > free:
            raise ModelError(
                f"{self.repository} needs {format_bytes(needed)} more in {self.blobs.parent}, and"
                f" the disk has {format_bytes(free)} free; make room, or set HF_HOME to a folder"
                " on a larger disk"
            )

    def url(self, file: RemoteFile) -> str:
        """Where the file is on the hub."""
        return hub.hf_hub_url(self.repository, file.name, revision=self.commit)

    def beginning(self, file: RemoteFile) -> bytes:
        """What is on this machine of the file's first bytes."""
        for path in (self.blobs / file.key, self._part(file)):
            if path.is_file():
                with path.open("rb") as here:
                    return here.read(_BEGINNING_BYTES)
        return b""

    def _part(self, file: RemoteFile) -> Path:
        return self.blobs / f"{file.key}.part"

    def _bring(self, file: RemoteFile) -> None:
        """The file under its key, whole and verified."""
        blob, part = self.blobs / file.key, self._part(file)
        begun = self.done
        if blob.is_file():
            self._check(file, blob, self._hash(file, blob))
        else:
            # Appending, so that what came before the last cut stays; at once, so that a disk that
            # is full is told where a piece is written
            with part.open("ab", buffering=0) as out, _locked(out, self.repository):
                digest = self._read(file, out)
            self._check(file, part, digest)
            part.replace(blob)
        self.done = begun + file.size_bytes

    def _read(self, file: RemoteFile, out: FileIO) -> Digest:
        """Appends what is missing to `out`; the digest is of all that it holds then."""
        digest, restarts = self._hash(file, Path(out.name)), 0
        while True:
            try:
                pieces = read_parts(
                    self.url(file), out.tell(), file.size_bytes, is_whole=restarts > 0
                )
                with closing(pieces):
                    for piece in pieces:
                        self._write(out, piece)
                        digest.update(piece)
                        self._report("downloading", self.done + out.tell())
                return digest
            except NoRangesError:
                restarts += 1
                if restarts == _RESTARTS:
                    raise http.client.IncompleteRead(b"", file.size_bytes) from None
                out.truncate(0)
                out.seek(0)
                digest = _new_digest(file)

    def _write(self, out: FileIO, piece: bytes) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[out.write(left) :]
        except OSError as error:
            raise ModelError(
                f"{self.repository} could not be written to {self.blobs.parent}:"
                f" {error.strerror or error}; what came is kept: make room, or move that folder to"
                f" a larger disk and set HF_HOME, and run 'rqchat pull {self.repository}', which"
                " goes on"
            ) from None
        self.fetched += len(piece)

    def _hash(self, file: RemoteFile, path: Path) -> Digest:
        """The digest of what `path` holds, which is the file or its beginning."""
        digest = _new_digest(file)
        with path.open("rb") as content:
            while piece := content.read(_PIECE_BYTES):
                digest.update(piece)
                self._report("verifying", self.done + content.tell())
        return digest

    def _check(self, file: RemoteFile, path: Path, digest: Digest) -> None:
        """Raises and removes the file if its content is not what its name says."""
        size = path.stat().st_size
        if size != file.size_bytes or digest.hexdigest() != file.key:
            path.unlink()
            raise ModelError(
                f"{file.name} of {self.repository} arrived damaged ({size:,} of"
                f" {file.size_bytes:,} bytes, or another hash) and was removed; run 'rqchat pull"
                f" {self.repository}' again"
            )

    def _report(self, stage: str, done_bytes: int) -> None:
        now_s = time.perf_counter()
        if now_s - self._reported_s >= _REPORT_S or done_bytes == self.total:
            self._reported_s = now_s
            rate = self.fetched / max(now_s - self._begun_s, 1e-9)
            self.on_event(LoadProgress(stage, done_bytes, self.total, rate))


def _new_digest(file: RemoteFile) -> Digest:
    if file.sha256:
        return hashlib.sha256()
    # As git names its blobs
    return hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)


@contextmanager
def _locked(file: FileIO, repository: str) -> Iterator[None]:
    """Locks `file` against other writers; the lock goes when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ModelError(
            f"{repository} is being downloaded by another rqchat; wait until that is done"
        ) from None
    yield

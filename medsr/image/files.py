"""Files, whatever their format: written whole or not at all, hashed, and named on one line of text."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medsr.errors import JobError, PlanError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EACCES: "writing is not permitted there; choose another folder with --output",
    errno.EPERM: "writing is not permitted there; choose another folder with --output",
    errno.EROFS: "the file system is read-only; choose another folder with --output",
    errno.ENOENT: "the folder does not exist; create it or choose another with --output",
    errno.ENOTDIR: "its folder is not a folder; choose another with --output",
    errno.EISDIR: "a folder of that name is in the way; choose another name with --output",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one with --output",
}
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL)


def display_name(path: Path) -> str:
    """File name for a message: control characters and bytes that are no text are escaped, so it stays on one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path.name or str(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Binary stream whose bytes appear under ``path`` at once, on leaving the block without an exception.

    The bytes go to a temporary name in the same folder, reach the disk (fsync), then get the final name. Whatever
    goes wrong, the temporary file is removed and an existing ``path`` is left as it was. A symbolic link at ``path``
    is replaced, never written through: what it points to may belong to a data store, or be the input.

    Raises PlanError when ``path`` exists and ``overwrite`` is false, also when it appears meanwhile; JobError when the
    operating system cannot write.
    """
    if os.path.lexists(path) and not overwrite:
        raise _exists(path)
    temporary = path.parent / f".medsr-{secrets.token_hex(8)}.part"
    try:
        # Not mkstemp: its files are private to the user, while an output should follow the umask.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, fails if another process has made the file meanwhile
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise _exists(path) from None
        temporary.rename(path)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(path: Path) -> PlanError:
    return PlanError(f"the output {display_name(path)} exists; choose another name or pass --overwrite")


def _cannot_write(path: Path, error: OSError) -> JobError:
    reason = _REASONS.get(error.errno or 0, error.strerror or "the operating system gave no reason")
    return JobError(f"cannot write {display_name(path)}: {reason}")

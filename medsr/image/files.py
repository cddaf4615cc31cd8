"""Files, whatever their format: written whole or not at all, hashed, and named on one line of text."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from medsr import stopping
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
_NO_HARD_LINKS = (
    errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL, errno.EXDEV,
)  # fmt: skip


def escaped(text: str) -> str:
    """Text that stays on its line: control characters and bytes that are no text are spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def display_name(path: Path) -> str:
    """File name for a message, ``escaped``."""
    return escaped(path.name or str(path))


def why_no_file(path: Path) -> str:
    """What is said of a path that should lead to a regular file and does not."""
    dangling = path.is_symlink() and not path.exists()
    return "is a link to nothing" if dangling else "does not exist or is no regular file"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Binary stream whose bytes appear under ``path`` at once, on leaving the block without an exception.

    As ``atomic_files``, for one file; an OSError inside the block is a JobError.
    """
    with atomic_files([path], overwrite=overwrite) as folder:
        try:
            with (folder / path.name).open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_files(paths: Sequence[Path], *, overwrite: bool = False) -> Iterator[Path]:
    """Folder in which files are made, each by its final name; on leaving the block they appear under ``paths``.

    paths: of one folder; each a file, or a folder of files. They appear in this order; the last one vouches for the
    others, so an old one of its name goes first. Those that were not made are left out. The bytes lie in a hidden
    folder beside the outputs until then and must have reached the disk, as those of ``atomic_write`` have. Whatever
    goes wrong, that folder is removed and existing files stay as they were; one that a killed process left is removed
    by the next run. A symbolic link is replaced, never written through: what it points to may belong to a data store,
    or be the input.

    Raises PlanError when a path exists and ``overwrite`` is false, also when it appears meanwhile; JobError when the
    operating system cannot write.
    """
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise _exists(path)
    with stopping.uninterrupted() as block, _staging(paths[-1]) as staging:
        with block.interruptible():
            yield staging
        made = [path for path in paths if (staging / path.name).exists()]
        if len(made) > 1 or any((staging / path.name).is_dir() for path in made):
            with block.interruptible():  # another run may hold it for a while
                lock = _lock(paths[-1].parent)
            try:
                _publish_all(staging, made, overwrite=overwrite)
            finally:
                _unlock(lock)
        else:
            for path in made:
                _publish(staging, path, overwrite=overwrite)
        sync_folder(paths[-1].parent)


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path``, locked for as long as its process lives, removed on the way out."""
    prefix = f".medsr-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"  # a lock speaks for one computer
    _remove_abandoned(path.parent, prefix)
    staging, lock = path.with_name(f"{prefix}{secrets.token_hex(8)}.part"), None
    try:
        while True:
            try:
                staging.mkdir()
            except OSError as error:
                raise _cannot_write(path, error) from error
            lock = _lock(staging)
            if staging.is_dir():
                break
            _unlock(lock)  # taken for abandoned before it was locked: made again
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _unlock(lock)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what killed processes left: folders whose lock nobody holds."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{prefix}*.part"):
            lock = _lock(path, wait=False)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                _unlock(lock)


def _lock(folder: Path, *, wait: bool = True) -> int | None:
    """Descriptor of a folder that only this process has locked; None where another has, or the system cannot lock."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _publish_all(staging: Path, paths: Sequence[Path], *, overwrite: bool) -> None:
    """Give several files their final names, all or none, under a lock: two runs at once do not mix their files."""
    made = {path: (staging / path.name).stat() for path in paths}
    old = {path: staging / f"{number}.old" for number, path in enumerate(paths)}
    try:
        if overwrite:
            for path in paths:
                with contextlib.suppress(OSError):  # nothing there, or no hard links: then nothing can be put back
                    os.link(path, old[path], follow_symlinks=False)
            with contextlib.suppress(OSError):
                paths[-1].unlink()
        for path in paths:
            _publish(staging, path, overwrite=overwrite)
    except BaseException:
        for path in paths:
            with contextlib.suppress(OSError):
                _take_back(staging / path.name, path, made[path], old[path])
        raise


def _take_back(temporary: Path, path: Path, made: os.stat_result, old: Path) -> None:
    """Undo ``_publish``, and put what was there before in its place again."""
    ours = os.path.lexists(path) and os.path.samestat(path.lstat(), made)
    if ours and path.is_dir():
        if temporary.exists():  # the old folder, which changed places with the new one
            _exchange(temporary, path)
        else:
            path.rename(temporary)
    elif os.path.lexists(old):
        old.replace(path)
    elif ours:
        path.unlink()


def _publish(staging: Path, path: Path, *, overwrite: bool) -> None:
    """Give one file or folder its final name; a folder that was there comes to lie in ``staging``."""
    temporary = staging / path.name
    try:
        if temporary.is_dir():  # no hard links to folders
            if not os.path.lexists(path):
                temporary.rename(path)
            elif overwrite and path.is_dir() and not path.is_symlink():
                _exchange(temporary, path)
            else:
                raise _exists(path)
            return
        if overwrite:
            temporary.replace(path)
            return
        try:
            os.link(temporary, path)  # unlike a rename, fails if another process has made the file meanwhile
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                raise _exists(path) from None
            temporary.rename(path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _cannot_write(path, error) from error


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places: in one step where the system can, so that each name always holds one of them."""
    if sys.platform == "linux":
        import ctypes

        at_fdcwd, rename_exchange = -100, 2  # from fcntl.h and linux/fs.h
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        if renameat2 and renameat2(at_fdcwd, bytes(one), at_fdcwd, bytes(other), rename_exchange) == 0:
            return
    aside = one.with_name(f"{one.name}.aside")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def sync_folder(folder: Path) -> None:
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

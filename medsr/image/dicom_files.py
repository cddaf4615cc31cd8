"""Where DICOM files lie: a folder, a zip, a DICOMDIR or one file; opened so that no declared length is believed."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from medsr.errors import InputError
from medsr.image.files import display_name, escaped, why_no_file
from medsr.machine import gigabytes, memory_to_hold

PREAMBLE = 132  # bytes: 128 for anybody, then DICM
_MAX_FILES = 200_000
_MAX_RATIO = 1100  # deflate cannot do better than 1032 to 1; a zip that claims more is made to exhaust the reader
_LARGE = 64 << 20  # bytes: from here on a file is held against the memory that is free
_ZIP_START = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")


@dataclass(frozen=True)
class Source:
    """One file of DICOM bytes: on disk, or a member of a zip that is never unpacked to disk.

    name: as shown to people, with folders below what was given.
    """

    path: Path
    name: str
    member: str | None = None
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Bytes of the file, or of the member once inflated, as the archive declares it."""
        if self.archive is not None and self.member is not None:
            return self.archive.getinfo(self.member).file_size
        return self.path.stat().st_size

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes as a stream whose ``read(n)`` never sets memory aside beyond what is there."""
        with self._open() as stream:
            yield cast(BinaryIO, _Bounded(stream, self.size))

    def read(self) -> bytes:
        """All bytes. Raises InputError when they do not fit the memory that is free."""
        size = self.size
        if size > _LARGE and size > (memory := memory_to_hold()):
            raise InputError(f"{self.name} is {gigabytes(size)} and {gigabytes(memory)} of memory are free")
        with self._open() as stream:
            return stream.read(size)

    def read_into(self, buffer: bytearray) -> memoryview:
        """All bytes, in a buffer that is enlarged as needed: files of one size then share one piece of memory."""
        if self.archive is not None:
            return memoryview(self.read())
        size = self.path.stat().st_size
        if size > len(buffer):
            buffer[:] = bytes(size)
        with self.path.open("rb", buffering=0) as stream:
            return memoryview(buffer)[: stream.readinto(memoryview(buffer)[:size])]

    def _open(self) -> BinaryIO:
        if self.archive is not None and self.member is not None:
            return self.archive.open(self.member)  # type: ignore[return-value]  # binary, read only, seeks forward
        return self.path.open("rb", buffering=1 << 13)


class _Bounded(io.RawIOBase):
    """A stream that asks the one below for no more than what is left of it.

    A file that declares an element of 4 GB would otherwise have Python set 4 GB aside before it sees the end.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self._at = stream, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        data = self._stream.read(left if size < 0 or size > left else size) if left > 0 else b""
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 1:
            offset += self._at
        # Past the end a zip member would be inflated for nothing.
        self._at = self._stream.seek(min(offset, self._size) if whence < 2 else self._size)
        return self._at


def is_dicom_path(path: Path) -> bool:
    """True for what is to be read as DICOM: a folder, a zip, or a file that begins with a preamble and DICM."""
    try:
        if path.is_dir():
            return True
        if not path.is_file():
            return False  # a pipe would be waited for without end
        with path.open("rb") as stream:
            start = stream.read(PREAMBLE)
    except OSError:
        return False
    return start[:4] in _ZIP_START or start[128:] == b"DICM"


def is_dicom(source: Source) -> bool:
    """True when the file begins with a preamble and DICM."""
    with source.open() as stream:
        return stream.read(PREAMBLE)[128:] == b"DICM"


def looks_headless(source: Source) -> bool:
    """True for what seems a DICOM data set without preamble: binary, and a UID of the standard near its start."""
    with source.open() as stream:
        start = stream.read(2048)
    return b"1.2.840.10008." in start and b"\0" in start


def sources_in(path: Path) -> list[Source]:
    """Every file that ``path`` leads to, DICOM or not, in the order of their names.

    path: a folder (with all folders below it, without following links to folders), a zip, or one file. Raises
    InputError when there is nothing, or when a zip is damaged, encrypted, or larger inflated than can be true.
    """
    name = display_name(path)
    try:
        if path.is_dir():
            return _in_folder(path)
        if not path.is_file():
            raise InputError(f"{name} {why_no_file(path)}; give a folder of DICOM files, a zip, or one file")
        with path.open("rb") as stream:
            start = stream.read(4)
        return _in_zip(path) if start in _ZIP_START else [Source(path, name)]
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read ({error}); check that it is there and readable") from error


def _in_folder(folder: Path) -> list[Source]:
    found: list[Source] = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            if path.is_file():
                found.append(Source(path, _shown(path.relative_to(folder).parts)))
            if len(found) > _MAX_FILES:
                raise InputError(f"{display_name(folder)} holds more than {_MAX_FILES} files; give one study's folder")
    if not found:
        raise InputError(f"{display_name(folder)} is a folder without files; give a folder of DICOM files")
    return found


def _in_zip(path: Path) -> list[Source]:
    """Members of a zip. Their names are only shown, never used as a path, so they cannot lead anywhere."""
    name = display_name(path)
    try:
        archive = zipfile.ZipFile(path)
        members = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise InputError(f"{name} is a damaged zip ({error}); copy or download it again") from error
    if len(members) > _MAX_FILES:
        raise InputError(f"{name} holds {len(members)} files, more than {_MAX_FILES}; unpack one study of it")
    for info in members:
        if info.flag_bits & 1:
            raise InputError(f"{name} is encrypted; unpack it first and give the folder")
        if info.file_size > _MAX_RATIO * info.compress_size + 1024:
            raise InputError(
                f"{name}: {one_line(info.filename)} claims {info.file_size} bytes from {info.compress_size}, more than "
                "any data can shrink; it is damaged or made to fill the memory"
            )
    return [
        Source(path, _shown(info.filename.split("/")), info.filename, archive)
        for info in sorted(members, key=lambda info: info.filename)
    ]


def sources_of_directory(path: Path, identifiers: Sequence[Sequence[str]]) -> tuple[list[Source], list[str]]:
    """The files that a DICOMDIR names, and one line for each that is not there.

    path: the DICOMDIR. identifiers: Referenced File IDs, components in order. A component that is no plain name
    (``..``, one with a slash) is refused: a file set lies below its DICOMDIR.
    """
    found, missing = [], []
    for parts in identifiers:
        if not parts or any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in parts):
            raise InputError(
                f"{display_name(path)} points to {one_line('/'.join(parts))!r}, outside its own folder; it is damaged"
            )
        candidates = [path.parent.joinpath(*parts), path.parent.joinpath(*[part.lower() for part in parts])]
        there = next((c for c in candidates if c.is_file()), None)
        if there is None:
            missing.append(f"{_shown(parts)} is named in {display_name(path)}, but is not there")
        elif not there.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(f"{display_name(path)} leads to {_shown(parts)}, a link out of its folder; copy the files")
        else:
            found.append(Source(there, _shown(parts)))
    return found, missing


def one_line(text: str, limit: int = 80) -> str:
    """Text of a file for a message: control characters escaped, and not too long."""
    plain = escaped(text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def _shown(parts: Sequence[str]) -> str:
    return one_line("/".join(parts), 200)

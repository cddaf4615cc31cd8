"""What a job is known by: the bytes of its scan, and the work on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medsr.errors import InputError
from medsr.image.dicom_files import Source
from medsr.image.files import display_name
from medsr.image.header import Header
from medsr.image.nifti_header import Layout, partner
from medsr.outputs import gradient_files
from medsr.request import Request

if TYPE_CHECKING:
    from medsr.image.dicom_read import Stack

_CHUNK = 1 << 20  # bytes that are hashed at a time
_NOT_OF_THE_WORK = ("output", "memory_bytes", "estimated_seconds", "warnings")  # of Plan.to_json
_NOT_OF_THE_REQUEST = ("device", "threads", "model")  # the model counts by the hash of its tensors


def job_key(
    name: str, input_sha256: str, plan: Mapping[str, Any], request: Request, template_sha256: str | None = None
) -> str:
    """SHA-256 of the input's hash and the plan's: equal when the same is to be done to the same scan.

    plan: ``Plan.to_json``, of which output, estimates, warnings, device and threads do not count, and in place of the
    input's file name its name in the cohort does: copies of a scan in two places are two scans. template_sha256: of
    the DICOM series whose tags the output takes, where the request names one.
    """
    work = {k: v for k, v in plan.items() if k not in _NOT_OF_THE_WORK} | {"input": name}
    work["request"] = {k: v for k, v in plan["request"].items() if k not in _NOT_OF_THE_REQUEST}
    if request.dicom_template is not None:
        work["request"]["dicom_template"] = [str(request.dicom_template), template_sha256]
    plan_sha256 = hashlib.sha256(json.dumps(work, sort_keys=True, default=str).encode()).hexdigest()
    return hashlib.sha256(f"{input_sha256}{plan_sha256}".encode()).hexdigest()


def files_of(header: Header, request: Request) -> tuple[Source, ...]:
    """The files that make up an inspected scan, each once.

    Of NIfTI the file, or both halves of a pair, and the directions that a 4-D output takes along; of DICOM those whose
    slices are used.
    """
    if header.format == "dicom":
        stack: Stack = header.extra
        return tuple({(head.source.path, head.source.member): head.source for head in stack.series.heads}.values())
    layout: Layout = header.extra
    gradients = gradient_files(header.path, header.path, request)
    paths = dict.fromkeys([partner(header.path, "img", "hdr"), layout.data, *gradients])
    return tuple(Source(path, display_name(path)) for path in paths)


def hash_of(files: Sequence[Source]) -> str:
    """``input_hash`` of files as they are now. Raises InputError for one that cannot be read."""
    return input_hash(_chunks(file) for file in files)


def input_hash(files: Iterable[Iterable[bytes]]) -> str:
    """SHA-256 of a scan: of its one file, or of the sorted hashes of its several files, whatever they are called."""
    digests = []
    for chunks in files:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _chunks(file: Source) -> Iterator[bytes]:
    try:
        with file.open() as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise InputError(f"{file.name} cannot be read ({error.strerror or error}); copy it again") from error
    except Exception as error:  # zlib and zipfile have half a dozen of their own
        raise InputError(f"{file.name} is damaged ({error}); copy its archive again") from error

"""One process of a batch: takes jobs, upscales their scans, records what came of them, until none is left."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from medsr.errors import MedsrError
from medsr.service.jobs import JobStore
from medsr.service.log import EventLog
from medsr.service.pipeline import LEASE_S, Pipeline, Rules
from medsr.service.records import Desk


def run_worker(store: Desk, out: Path, rules: Rules, log: EventLog, stop: threading.Event) -> None:
    """Work until no job is queued, or until ``stop`` is set; what was not finished then is given back.

    out: the folder that the outputs of tasks are relative to. A scan that fails is recorded, and the next one taken.
    Raises DeviceError when the device is absent or lost, and JobError when the store cannot be used: neither is a
    scan's fault, so no scan is failed for it.
    """
    with Pipeline(store, out, rules, log, stop) as pipeline:
        pipeline.run()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """``python -m medsr.service.worker``: exits with 0, 128 + the number of a signal, or the code of an error."""
    parser = argparse.ArgumentParser(prog="medsr.service.worker", description="Started by medsr batch.")
    parser.add_argument("store", type=Path, help="job store, which must be there")
    parser.add_argument("out", type=Path, help="folder of the outputs")
    parser.add_argument("--worker", required=True, help="name, unlike that of any other process")
    parser.add_argument("--threads", type=int, help="of the CPU, for scans that name no number")
    parser.add_argument("--retries", type=int, default=0, help="how often a scan that failed is tried again")
    parser.add_argument("--lease", type=float, default=LEASE_S, help="seconds")
    parser.add_argument("--parent", action="store_true", help="stop when standard input ends: its writer has died")
    parser.add_argument("--log-names", action="store_true", help="name scans in the log, and say why they failed")
    parser.add_argument("-v", "--verbose", action="store_true", help="log tracebacks, which may name files")
    given = parser.parse_args(args)
    # Threads that wait by spinning make the network several times slower where others read and write beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.heard)
    if given.parent:
        threading.Thread(target=stop.at_end_of_input, daemon=True).start()
    rules = Rules(given.worker, given.threads, given.retries, given.lease, given.verbose)
    log = EventLog(sys.stderr, given.worker, names=given.log_names)
    try:
        with JobStore(given.store) as store:
            run_worker(store, given.out, rules, log, stop.event)
    except MedsrError as error:
        print(f"medsr: error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    sys.exit(128 + stop.signal if stop.signal else 0)


class _Stop:
    """Why to stop: a signal, or the end of standard input, which counts as SIGTERM."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal = 0

    def heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  as signal.signal wants it
        """Finish what is being written, and stop."""
        self.signal = number
        self.event.set()

    def at_end_of_input(self) -> None:
        """Wait for it: the other end of the pipe is closed when the process that holds it dies, however it dies."""
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        self.heard(signal.SIGTERM, None)


if __name__ == "__main__":
    main()

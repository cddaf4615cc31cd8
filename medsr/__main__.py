"""The program: ``medsr``, or ``python -m medsr``."""

import sys
from typing import NoReturn

from medsr import stopping


def main() -> NoReturn:
    """Run the command line; a signal is listened to before the imports, which take a while on a busy machine."""
    stopping.listen()
    try:
        from medsr.cli import main as run
    except (stopping.Interrupted, stopping.Terminated) as stop:
        stopping.calm()
        print(f"medsr: error: {stop.words}", file=sys.stderr)
        sys.exit(stop.exit_code)
    run()


if __name__ == "__main__":
    main()

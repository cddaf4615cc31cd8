"""``python -m medsr``: the command line."""

from medsr.cli import main

if __name__ == "__main__":
    main()

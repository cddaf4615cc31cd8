"""Every error a user can cause or meet, each with the exit code of the command line.

A message says what was found, what was expected and what to do.
"""

SOME_FAILED = 8  # exit code of a batch or a study of which some scans failed; the others are done


class MedsrError(Exception):
    """A fault that ends a run in one clear line; ``exit_code`` is the command's exit status."""

    exit_code = 1


class ConfigError(MedsrError):
    """A configuration file, or a combination of options, that cannot be meant."""

    exit_code = 2


class InputError(MedsrError):
    """The scan cannot be read as one trustworthy 3-D volume (or a codec for it is missing)."""

    exit_code = 3


class PlanError(MedsrError):
    """The scan is readable, but what was asked of it cannot or should not be done."""

    exit_code = 4


class ModelError(MedsrError):
    """The weights file is damaged, foreign or does not fit the network."""

    exit_code = 5


class DeviceError(MedsrError):
    """The computing device that was asked for is absent, lost or out of memory."""

    exit_code = 6


class JobError(MedsrError):
    """The output cannot be written, or a job of a batch failed."""

    exit_code = 7

"""The one exception that means "the user can mend this"; programs print it without a traceback."""

EXIT_LOST = 75  # EX_TEMPFAIL: nothing is wrong with the program; the same command goes on


class InputError(ValueError):
    """Bad input: the message names the file, line, field or flag, and the mend."""


class ProgramFailedError(Exception):
    """A program that this one runs ended with an error, which it has printed."""

"""The one error that users meet: what they gave cannot be used, and one line says why."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names what was given (the file, the option, the value), and what was expected.
    The command line prints it and exits with status 2; from Python it is an ordinary `ValueError`.
    """


class TrainingError(RuntimeError):
    """A training run can't go on. The message says at which step, and what is left of it. The command line prints it
    and exits with status 1."""

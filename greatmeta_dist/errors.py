"""How anything here says that the user's input must change."""


class InputError(ValueError):
    """Bad usage or input: what was found, what was expected, what to do. Exit code 2."""


def require(condition: bool, message: str) -> None:
    """Raise ``InputError(message)`` unless the condition holds."""
    if not condition:
        raise InputError(message)

"""The one exception that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is complete by itself: it names the field, the value and what is allowed. Scripts
    print it without a traceback and end with exit code 2.
    """

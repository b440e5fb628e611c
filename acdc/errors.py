"""The one exception that is meant for the person at the keyboard."""

import traceback


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is complete by itself: it names the field, the value and what is allowed. Scripts
    print it without a traceback and end with exit code 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one line; where it was raised if it says nothing.

    Of use where any failure in there means the same for the user.
    """
    if message := str(error).strip():
        return message.splitlines()[0][:300]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].line!r}" if frames else type(error).__name__

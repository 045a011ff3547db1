"""The one exception a user is meant to read."""


class UserError(Exception):
    """Bad input or a situation the user can mend.

    The message is one sentence that names the file, field and value at fault and what to do about it.
    Jobs print it after ``error:`` and exit with code 1; no stack trace is shown.
    """

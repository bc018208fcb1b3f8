"""The one exception that the program answers with a line and exit status 2."""


class UserError(Exception):
    """Something the user can mend: the message names the file or flag, what is wrong with it and the remedy."""

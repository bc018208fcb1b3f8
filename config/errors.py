"""The one exception that the program answers with a line and exit status 2."""


class UserError(Exception):
    """Something the user can mend: the message names the file or flag, what is wrong with it and the remedy."""

    @property
    def line(self) -> str:
        """The message as one line, also of an error that a loader's process raised and torch wrapped in a traceback."""
        text = str(self).strip()
        if text.startswith("Caught "):
            text = text.rsplit(f"{__name__}.{type(self).__name__}: ", 1)[-1]
        return "\\n".join(text.splitlines()) or "unknown"  # a path may hold a line break

"""The exception that the program answers with one line and exit status 2, and the suggestion in such a line."""
import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: the message names the file or flag, what is wrong with it and how to fix it."""

    @property
    def line(self) -> str:
        """The message in one line, even if it comes wrapped in torch's traceback of a loader process."""
        text = str(self).strip()
        if text.startswith("Caught "):
            text = text.rsplit(f"{__name__}.{type(self).__name__}: ", 1)[-1]
        return "\\n".join(text.splitlines()) or "unknown"  # a path may contain a line break


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the nearest of the `known` names, or "" if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""

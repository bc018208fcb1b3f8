"""Tables of text, for the console and as Markdown."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text: `head` and every row have one cell a column. The first column is left-aligned."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def console(self) -> list[str]:
        """Lines for a terminal: the title, then head and rows in columns of equal width, indented."""
        cells = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells)]
        padded = ([x.rjust(w) if i else x.ljust(w) for i, (x, w) in enumerate(zip(row, widths))] for row in cells)
        return [self.title, *(f"  {'  '.join(row)}".rstrip() for row in padded)]

    def markdown(self) -> list[str]:
        """Lines of Markdown: the title in bold, the table, an empty line."""
        rule = ("---", *["---:"] * (len(self.head) - 1))
        cells = [[x.replace("|", "\\|") for x in row] for row in (self.head, rule, *self.rows)]
        return [f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in cells), ""]

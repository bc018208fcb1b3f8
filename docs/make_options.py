"""Generates docs/options.md from the options and recipes: python -m docs.make_options > docs/options.md"""
from collections.abc import Sequence

from config.command_line import default_of
from config.options import FIELDS, flag, groups, values_of
from config.recipes import RECIPES

INTRODUCTION = """# Options

`python -m docs.make_options > docs/options.md` generates this page. Switches take 0 or 1. An option that you give
overrides the recipe; the recipe overrides the data set's crop; that, the published settings of the segmenter and flow
stages (`config/recipes.py`); and those, the defaults below.
"""
RECIPES_INTRODUCTION = """## Recipes

`--recipe NAME` sets the options that reached the figure below. In the commands, capitals stand for the folder of a data
set, or the `model_best.pth.tar` of an earlier run. All figures: [results.md](results.md).
"""


def options_page() -> str:
    """The page as Markdown: one table of options per group, then the recipes."""
    lines = [INTRODUCTION]
    for title, names in groups().items():
        table = _table(("option", "default", "meaning"), [_row(name) for name in names])
        lines += [f"## {title.capitalize()}\n", *table, ""]
    rows = [(_code(recipe.command), recipe.expected, recipe.time) for recipe in RECIPES.values()]
    return "\n".join([*lines, RECIPES_INTRODUCTION, *_table(("command", "reaches", "time"), rows)])


def _row(name: str) -> tuple[str, ...]:
    values = values_of(name)
    spelt = f"{flag(name)} {values if isinstance(values, str) else ' '.join(values)}"
    return _code(spelt), _code(default_of(name)), FIELDS[name].metadata["help"]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


if __name__ == "__main__":
    print(options_page())

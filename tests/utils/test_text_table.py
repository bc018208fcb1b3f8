"""Tables of text on the console and as Markdown."""
from utils.text_table import Table

TABLE = Table("Speed", ("network", "frames/s", "ms"), (("a long name", "8.1", "123.4"), ("b|c", "-", "9")))


def test_console_aligns_the_first_column_left_and_the_others_right():
    assert TABLE.console() == [
        "Speed",
        "  network      frames/s     ms",
        "  a long name       8.1  123.4",
        "  b|c                 -      9",
    ]


def test_table_without_rows_is_its_head():
    assert Table("Speed", ("network", "ms"), ()).console() == ["Speed", "  network  ms"]


def test_markdown_escapes_bars_and_aligns_figures_right():
    assert TABLE.markdown() == [
        "**Speed**", "", "| network | frames/s | ms |", "| --- | ---: | ---: |", "| a long name | 8.1 | 123.4 |",
        "| b\\|c | - | 9 |", "",
    ]

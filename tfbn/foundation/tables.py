"""Text tables that keep to the width of the terminal."""

import functools
import io
import shutil
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 100  # characters
GAP_BETWEEN_COLUMNS = 2  # characters


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[int] = (),
    width: int | None = None,
) -> str:
    """Return an aligned table; a cell that does not fit breaks within its own column, between words.

    Args:
        numeric: the indices of the columns that are aligned to the right. Default: none.
        width: characters; a table of long words is wider. Default None: those of the terminal, or 100
            without one.

    >>> print(text_table(["arm", "seeds"], [["batchnorm", "6"], ["plain", "6"]], numeric=[1]))
    arm        seeds
    ----------------
    batchnorm      6
    plain          6
    """
    lines = [list(header), *(list(map(str, row)) for row in rows)]
    width = width or shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 0)).columns
    widths = _column_widths(lines, width)
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for index, (title, column_width) in enumerate(zip(lines[0], widths, strict=True)):
        table.add_column(Text(title), justify="right" if index in numeric else "left", width=column_width)
    for row in lines[1:]:
        table.add_row(*map(Text, row))
    whole = sum(widths) + GAP_BETWEEN_COLUMNS * len(widths)
    console = Console(file=io.StringIO(), width=whole, color_system=None, legacy_windows=False)
    with console.capture() as capture:  # Without it, a notebook would display the table.
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _column_widths(lines: list[list[str]], width: int) -> list[int]:
    """Return the columns' widths: narrowed where it costs the fewest lines, never below a word."""
    columns = list(zip(*lines, strict=True))
    words = [max((len(word) for cell in column for word in cell.split()), default=1) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + GAP_BETWEEN_COLUMNS * (len(widths) - 1) > width:
        narrowed = [
            [*widths[:i], size - 1, *widths[i + 1 :]] for i, size in enumerate(widths) if size > words[i]
        ]
        if not narrowed:
            break
        widths = min(narrowed, key=lambda sizes: (_height(lines, sizes), max(sizes)))
    return widths


def _height(lines: list[list[str]], widths: list[int]) -> int:
    return sum(max(map(_count_lines, line, widths)) for line in lines)


@functools.lru_cache(4096)
def _count_lines(cell: str, width: int) -> int:
    return 1 if len(cell) <= width else len(textwrap.wrap(cell, width))


# A line below the header, and nothing between the columns; ASCII, which every terminal can show.
_RULE = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n")

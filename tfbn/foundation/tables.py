"""Text tables that keep to the width of the terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 100  # characters


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[int] = (),
    width: int | None = None,
) -> str:
    """Return an aligned table; a cell that does not fit breaks within its own column.

    Args:
        header: the columns' titles.
        rows: their cells.
        numeric: the indices of the columns that are aligned to the right. Default: none.
        width: characters. Default None: those of the terminal, or 100 without one.

    >>> print(text_table(["arm", "seeds"], [["batchnorm", "6"], ["plain", "6"]], numeric=[1]))
    arm        seeds
    ────────────────
    batchnorm      6
    plain          6
    """
    rows = [list(map(str, row)) for row in rows]
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    least = 0
    for index, cells in enumerate(zip(header, *rows, strict=True)):
        # No narrower than the longest word, so that words and numbers stay whole.
        longest = max((len(word) for cell in cells for word in cell.split()), default=0)
        justify = "right" if index in numeric else "left"
        table.add_column(Text(cells[0]), justify=justify, min_width=longest)
        least += longest + 2
    for row in rows:
        table.add_row(*map(Text, row))
    width = width or shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 0)).columns
    console = Console(file=io.StringIO(), width=max(width, least), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


# A line below the header, and nothing between the columns.
_RULE = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")

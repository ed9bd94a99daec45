"""Tables for people and for papers: one layout, written as Markdown, LaTeX, HTML or text."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence

import pandas as pd
from tabulate import tabulate

from recbole_hellm.storage.terminal import plain_text

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in one place: a text, and whether it is the best or the second best there."""

    text: str
    best: bool = False
    second: bool = False


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes
    ----------
    name : str
        What files of it are called by.
    title : str
    head : sequence of str
    rows : sequence of sequences of Cell or str
    notes : sequence of str
        What a reader must know to read it; one sentence each.
    data : DataFrame, optional
        The same figures in full, one a row.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()
    data: pd.DataFrame | None = None

    def cells(self) -> list[list[Cell]]:
        """All rows, plain texts as cells."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


def as_text(sheet: Sheet) -> str:
    """For a terminal; the best has a star, the second best a plus."""
    body = [
        [cell.text + ("*" if cell.best else "+" if cell.second else "") for cell in row]
        for row in sheet.cells()
    ]
    table = tabulate(body, sheet.head, tablefmt="simple", disable_numparse=True, stralign="left")
    lines = [sheet.title, "", *table.split("\n"), *_ended(sheet.notes)]
    return "\n".join(map(plain_text, lines))


def as_markdown(sheet: Sheet) -> str:
    """GitHub's Markdown; the best in bold, the second best underlined."""
    lines = [_markdown_row(sheet.head), _markdown_row(["---"] * len(sheet.head))]
    for row in sheet.cells():
        lines.append(_markdown_row([_written(cell, str, "**{}**", "<u>{}</u>") for cell in row]))
    notes = [" ".join(sheet.notes)] if sheet.notes else []
    return "\n".join([f"### {sheet.title}", "", *lines, *_ended(notes)])


def as_latex(sheet: Sheet, file: str = "") -> str:
    """A ``table`` for the package booktabs; the best in bold, the second best underlined.

    Its label is ``tab:FILE-SHEET``, one of its own in a document that reads several files.
    """
    label = f"{file}-{sheet.name}" if file else sheet.name
    columns = "l" + "r" * (len(sheet.head) - 1)
    caption = " ".join([f"{sheet.title}.", *sheet.notes])
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_latex, sheet.head)) + r" \\",
        r"\midrule",
    ]
    for row in sheet.cells():
        texts = (_written(cell, _latex, r"\textbf{{{}}}", r"\underline{{{}}}") for cell in row)
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def as_html(sheet: Sheet) -> str:
    """A ``table`` element with its caption and notes."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in sheet.head)
    lines = [f"<table><caption>{html.escape(sheet.title)}</caption>", f"<tr>{head}</tr>"]
    for row in sheet.cells():
        texts = (_written(cell, html.escape, "<b>{}</b>", "<u>{}</u>") for cell in row)
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return "\n".join([*lines, "</table>", *(f"<p>{html.escape(note)}</p>" for note in sheet.notes)])


def html_page(title: str, sheets: Sequence[Sheet]) -> str:
    """A page with all of `sheets` that needs nothing else."""
    style = (
        "body{font:15px system-ui,sans-serif;margin:2em auto;max-width:min(130em,100vw - 4em)}"
        "table{border-collapse:collapse;margin-top:2em;display:block;overflow-x:auto;max-width:max-content}"
        "caption{font-weight:600;text-align:left;padding:.4em 0}"
        "th,td{padding:.25em .6em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
        "th:first-child,td:first-child{text-align:left}p{color:#444;max-width:60em;margin:.4em 0}"
    )
    body = "\n".join(map(as_html, sheets))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def _written(cell: Cell, escape: Callable[[str], str], best: str, second: str) -> str:
    """A cell's text in the pattern for the best, for the second best, or plain."""
    pattern = best if cell.best else second if cell.second else "{}"
    return pattern.format(escape(cell.text))


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |".replace("|  |", "| |")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _ended(notes: Sequence[str]) -> list[str]:
    return ["", *notes] if notes else []

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_hellm.data.preparation.text_rows import RowStream, TextRows
from recbole_hellm.errors import DataError


def cells(text: str, separator: str = ",", quotes: bool = True) -> list[list[str]]:
    parser = TextRows(Path("f"), separator, quotes)
    return [parser.cells(row.text) for row in parser.rows(text.splitlines(keepends=True))]


def test_an_open_quote_is_a_character_between_tabs() -> None:
    log = 'user note item|u1 "good i1|u2 fine i2|u3 "bad" i3|u4 "bad"~but i4|u5 x" i5|'
    log = log.replace(" ", "\t").replace("|", "\n").replace("~", " ")
    assert cells(log, "\t")[1:] == [
        ["u1", '"good', "i1"],
        ["u2", "fine", "i2"],
        ["u3", "bad", "i3"],
        ["u4", '"bad" but', "i4"],
        ["u5", 'x"', "i5"],
    ]


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ('1\t"He said ""hi"""\tx', ["1", 'He said "hi"', "x"]),
        ('1\t"\tx', ["1", '"', "x"]),
        ('1\t""\tx', ["1", "", "x"]),
        ('1\t"""\tx', ["1", '"""', "x"]),
        ('1\t"a\tb"\tx', ["1", "a\tb", "x"]),
        ('"1"\t"a\tb"', ["1", '"a', 'b"']),
        ('1\t"a\nb"\tx', ["1", "a\nb", "x"]),
        ('1\tx\t"a\r\nb, ""c"""', ["1", "x", 'a\nb, "c"']),
        ('"a\nb"\tx\ty', ["a\nb", "x", "y"]),
    ],
)
def test_quoted_cells_between_tabs(row: str, read: list[str]) -> None:
    after = ["2", "next", "y"]
    assert cells(f"a\tb\tc\n{row}\n2\tnext\ty\n", "\t")[1:] == [read, after]


def test_each_line_between_tabs_that_is_a_row_stays_one() -> None:
    log = 'a\tb\n1\t"open\n2\tnext\n3\tshut"\n"4\tx\n5\t"\n'
    assert cells(log, "\t")[1:] == [
        ["1", '"open'],
        ["2", "next"],
        ["3", 'shut"'],
        ['"4', "x"],
        ["5", '"'],
    ]
    assert cells('title\n"a\nb\nc"\n', "\t")[1:] == [['"a'], ["b"], ['c"']]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,x\n2,"open\n3,y\n', "line 3 opens a quote that does not close; close it"),
        (
            'a,b\n1,"open\n2,x\n3,"shut"\n',
            "line 2 opens a quote that closes in the midst .* line 4",
        ),
        (
            'a,b,c\n1,"open,x\n2,"shut,y\n',
            "line 2 opens .* closes in the midst of a cell in line 3",
        ),
        ('a,b\n1,x\n2,"open\n3,y\n4,24"\n', "line 3 opens .* closes in line 5, and line 4 looks"),
        ('a,b\n1,"\n2,"\n', "line 2 opens a quote that closes in the midst of a cell in line 3"),
        ("a,b\n1,x\n\n1,x,y\n", "line 4 has 3 cells, and there are 2 columns"),
        ('a,b\n1,x,y,"\n2,z\n', "line 2 opens a quote that does not close"),
        ("a,b\n1,\0\n", "line 2 has a null character"),
    ],
)
def test_rows_that_would_be_lost_are_told(text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"f, {message}"):
        cells(text)


def test_quoted_cells_over_lines() -> None:
    text = 'id,text,time\n1,"Nice,\n\n""very"" soft",5\n2,"Great, warm\nsoft, too, really\n",6\n'
    assert cells(text)[1:] == [
        ["1", 'Nice,\n\n"very" soft', "5"],
        ["2", "Great, warm\nsoft, too, really\n", "6"],
    ]
    # Its lines have as many commas as a row, and are none.
    text = 'id,text\n1,fine\n2,"Great\nNice, warm\nGood, red"\n'
    assert cells(text)[-1] == ["2", "Great\nNice, warm\nGood, red"]
    assert cells('a,b\n"5" tall,x"y\n')[1] == ["5 tall", 'x"y']


@pytest.mark.parametrize("separator", [",", "\t"])
def test_long_cells(separator: str) -> None:
    long = '""x""\n' * 20_000 + "y" * 300_000
    assert cells(f'a{separator}b\n1{separator}"{long}"\n', separator)[1][1] == long.replace(
        '""', '"'
    )


def test_quotes_are_characters_where_that_is_said() -> None:
    assert cells('a,b\n1,"x\n"2",y\n', quotes=False)[1:] == [["1", '"x'], ['"2"', "y"]]


def test_what_is_left_out_or_short_is_counted() -> None:
    parser = TextRows(Path("f"), ",")
    lines = ["a,b,c\n", "1,2,3\n", "\n", " , ,\n", "4\n", "5,6,7,,\n", "  \n", "8,9\n", '"",,\n']
    rows = [(row.line, row.text) for row in parser.rows(lines)]
    assert rows == [(1, "a,b,c"), (2, "1,2,3"), (5, "4"), (6, "5,6,7"), (8, "8,9")]
    assert (parser.blank, parser.short, parser.first_short) == (4, 2, 5)


@settings(max_examples=300)
@given(
    st.lists(st.lists(st.text('ab ,\t"\n', max_size=8), min_size=3, max_size=3), max_size=8),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(",\t;"),
)
def test_what_writers_of_csv_write_is_read_or_told(
    table: list[list[str]], quoting: int, separator: str
) -> None:
    # Tabs in cells may look like those between them.
    table = [[cell.replace("\t", " ") for cell in row] for row in table]
    rows = [[str(number), *row, "7"] for number, row in enumerate(table)]
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(
        [["id", "x", "y", "z", "time"], *rows]
    )
    try:
        read = cells(file.getvalue(), separator)[1:]
    except DataError:
        assert separator != "\t"
        return
    assert read == rows


@given(st.lists(st.lists(st.text('a "', max_size=5), min_size=2, max_size=2), max_size=9))
def test_no_row_between_tabs_is_lost(table: list[list[str]]) -> None:
    rows = [[str(number), *row] for number, row in enumerate(table)]
    text = "".join("\t".join(row) + "\n" for row in [["id", "a", "b"], *rows])
    assert [row[0] for row in cells(text, "\t")[1:]] == [row[0] for row in rows]


@given(st.lists(st.text("ab", min_size=1, max_size=9)), st.integers(1, 9))
def test_a_stream_gives_every_row(texts: list[str], size: int) -> None:
    stream = RowStream(TextRows(Path("f"), ",").rows(f"{text}\n" for text in texts))
    parts = iter(lambda: stream.read(size), "")
    assert "".join(parts) == "".join(f"{text}\n" for text in texts)


class Slow(TextRows):
    """Takes every row with a quote apart."""

    def _is_well_formed(self, text: str) -> bool:
        return False


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.lists(st.sampled_from(["", " ", "a", '"', '""', '"a"', '"a""b"', 'a"b']))),
    st.sampled_from([",", "\t"]),
)
def test_well_formed_rows_are_read_as_if_taken_apart(
    table: list[list[str]], separator: str
) -> None:
    lines = [f"{separator.join(row)}\n" for row in [["x", "y"], *table]]

    def read(kind: type[TextRows]) -> object:
        parser = kind(Path("f"), separator)
        try:
            rows = [(row.line, parser.cells(row.text)) for row in parser.rows(lines)]
        except DataError as error:
            return str(error)
        return rows, parser.blank, parser.short, parser.first_short

    assert read(TextRows) == read(Slow)

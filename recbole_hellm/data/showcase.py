"""What people want to see of an item: its title, its categories and, where there is one, a picture.

Texts come from the dataset's item table, as do names of picture files. Pictures are local files:
nothing is ever fetched from an address here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.data.atomic import read_items

TITLE_COLUMNS = ("title", "name", "movie_title")
CATEGORY_COLUMNS = ("categories", "category", "genres", "genre", "class")
IMAGE_COLUMNS = ("image", "image_path", "image_file")
IMAGES = "images"  # folder of a dataset with a picture per item, named by its token
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
# What some file system forbids in a name, at its begin or at its end; and %, the mark of these.
_UNSAFE = re.compile(r"""[%/\\:*?"<>|\x00-\x1f\x7f]|^\.|[. ]\Z""")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A local picture: its file and its media type."""

    path: Path
    kind: str


@dataclasses.dataclass(frozen=True)
class Showcase:
    """Texts and pictures of items, by token; an item that is not known has empty ones.

    Attributes
    ----------
    titles, categories : mapping of str to str
        Categories of one path are joined by `` > ``.
    folders : tuple of Path
        Where pictures may lie.
    files : mapping of str to str
        Picture files that the item table names, relative to a folder.
    """

    titles: Mapping[str, str]
    categories: Mapping[str, str]
    folders: tuple[Path, ...] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(
        cls, directory: Path, name: str, item_field: str = "item_id", images: Path | None = None
    ) -> Showcase:
        """The showcase of a dataset; an empty one where the dataset has no item table.

        Parameters
        ----------
        directory, name : Path, str
            The dataset's folder, and the name in ``<name>.item``.
        item_field : str
            The column with item tokens.
        images : Path, optional
            A folder with pictures in place of the dataset's own ``images``.

        Raises
        ------
        DataError
            If there is an item table and it cannot be read.
        """
        folders = tuple(folder for folder in (images, directory / IMAGES, directory) if folder)
        if not (directory / f"{name}.item").is_file():
            return cls({}, {}, folders)
        frame = read_items(directory, name, item_field)
        tokens = frame["item_id"].tolist()

        def column(names: Iterable[str]) -> dict[str, str]:
            found = next((key for key in names if key in frame), None)
            cells = [] if found is None else map(_joined, frame[found])
            return dict(zip(tokens, cells, strict=False))

        return cls(column(TITLE_COLUMNS), column(CATEGORY_COLUMNS), folders, column(IMAGE_COLUMNS))

    def title(self, token: str) -> str:
        """The item's title, or ''."""
        return self.titles.get(token, "")

    def category(self, token: str) -> str:
        """The item's categories, or ''."""
        return self.categories.get(token, "")

    def describe(self, items: Iterable[str]) -> pd.DataFrame:
        """Columns item, title, categories; one row an item, in the given order."""
        rows = [(item, self.title(item), self.category(item)) for item in items]
        return pd.DataFrame(rows, columns=["item", "title", "categories"])

    def picture(self, token: str) -> Picture | None:
        """The item's picture, if there is a local file with one."""
        for folder, name in self._places(token):
            kind = _image_kind(folder, name)
            if kind:
                return Picture(folder / name, kind)
        return None

    def file(self, token: str) -> Path | None:
        """The file of the item's picture, or one in its place that is no picture, if there is."""
        found = self.picture(token)
        if found is not None:
            return found.path
        places = self._places(token)
        return next((folder / name for folder, name in places if _is_within(folder, name)), None)

    def _places(self, token: str) -> Iterator[tuple[Path, str]]:
        """Folders, and names in them, where the item's picture may be."""
        named = self.files.get(token)
        for folder in self.folders:
            if named:
                yield folder, named
            if folder.name == IMAGES or folder == self.folders[0]:
                for stem in dict.fromkeys((file_stem(token), token)):
                    for suffix in SUFFIXES:
                        yield folder, f"{stem}{suffix}"


def file_stem(token: str) -> str:
    """The name, without a suffix, of an item's picture in the folder of pictures.

    It is the token itself. Characters that a file's name cannot hold everywhere are
    percent-encoded, and so is ``%``: no two tokens share a name, and
    :func:`urllib.parse.unquote` gives the token back.

    Examples
    --------
    >>> file_stem("B000 É"), file_stem("a/b.c"), file_stem("..")
    ('B000 É', 'a%2Fb.c', '%2E%2E')
    """

    def encoded(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found.group().encode())

    return _UNSAFE.sub(encoded, token)


def picture_kind(start: bytes) -> str | None:
    """Media type of a picture by its first 12 bytes; None for what is no picture to show."""
    kind = next((kind for mark, kind in _SIGNATURES.items() if start.startswith(mark)), None)
    return None if kind == "image/webp" and start[8:12] != b"WEBP" else kind


def _image_kind(folder: Path, name: str) -> str | None:
    """Media type of a picture within `folder`; None for anything else."""
    if not _is_within(folder, name):
        return None
    try:
        with (folder / name).open("rb") as file:
            return picture_kind(file.read(12))
    except OSError:
        return None


def _is_within(folder: Path, name: str) -> bool:
    """Whether `name` is a file in `folder`, and not beside it through ``..`` or a link."""
    try:
        path = (folder / name).resolve()
        return "://" not in name and path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):
        return False


def _joined(cell: Any) -> str:
    return cell if isinstance(cell, str) else " > ".join(cell)

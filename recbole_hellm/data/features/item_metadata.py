"""What people want to see of an item: its title, its categories and, where there is one, a picture.

Texts come from the dataset's item table, as do names of picture files. Pictures are local files:
nothing is ever fetched from an address here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.data.interactions.atomic_files import STANDARD, AtomicSettings, read_items
from recbole_hellm.storage.text_files import open_regular

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
class ItemMetadata:
    """Texts and pictures of items, by token; an item that is not known has empty ones.

    Folders are listed once, when the first picture is looked for: :meth:`refresh` after pictures
    were put there.

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
    _listed: dict[Path, dict[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def read(
        cls,
        directory: Path,
        name: str,
        settings: AtomicSettings = STANDARD,
        images: Path | None = None,
    ) -> ItemMetadata:
        """The metadata of a dataset; an empty one where the dataset has no item table.

        Parameters
        ----------
        directory, name : Path, str
            The dataset's folder, and the name in ``<name>.item``.
        settings : AtomicSettings
            How the item table is written.
        images : Path, optional
            A folder with pictures in place of the dataset's own ``images``.

        Raises
        ------
        DataError
            If there is an item table and it cannot be read.
        """
        folders = tuple(folder for folder in (images, directory / IMAGES, directory) if folder)
        if not (directory / f"{name}.item").exists():
            return cls({}, {}, folders)
        frame = read_items(directory, name, settings)
        tokens = frame["item_id"].tolist()

        def column(names: Iterable[str]) -> dict[str, str]:
            column_name = next((key for key in names if key in frame), None)
            cells = [] if column_name is None else map(_joined, frame[column_name])
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
        for path in self._places(token):
            kind = _image_kind(path)
            if kind and self._holds(path):
                return Picture(path, kind)
        return None

    def file(self, token: str) -> Path | None:
        """The file of the item's picture, or one in its place that is no picture, if there is."""
        picture = self.picture(token)
        if picture is not None:
            return picture.path
        places = (path for path in self._places(token) if _is_there(path))
        return next(filter(self._holds, places), None)

    def leads_out(self, token: str) -> bool:
        """Whether the item's picture is a link, or a name in the item table, out of the folders."""
        named = self.files.get(token)
        if named and "://" not in named and not any(_is_within(f, named) for f in self.folders):
            return True
        return any(_is_there(path) and not self._holds(path) for path in self._places(token))

    def refresh(self) -> None:
        """Look into the folders anew."""
        self._listed.clear()

    def _places(self, token: str) -> Iterator[Path]:
        """Where the item's picture may be, best first."""
        named = self.files.get(token)
        for folder in self.folders:
            if named and _is_within(folder, named):
                yield folder / named
            if folder.name == IMAGES or folder == self.folders[0]:
                for stem in dict.fromkeys((file_stem(token), token)):
                    yield from self._files(folder, stem)

    def _holds(self, path: Path) -> bool:
        """Whether a file is in one of the folders, after links; a folder itself may be a link."""
        file = Path(os.path.realpath(path))
        return any(file.is_relative_to(os.path.realpath(folder)) for folder in self.folders)

    def _files(self, folder: Path, stem: str) -> Iterator[Path]:
        head, slash, tail = stem.rpartition("/")
        if slash:  # a token as it is
            if not _is_within(folder, stem):
                return
            folder = folder / head
        if folder not in self._listed:
            self._listed[folder] = picture_names(folder)
        for name in self._listed[folder].get(tail, ()):
            yield folder / name


def picture_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Names in a folder that end as pictures do, by what is before that; best first.

    Parameters
    ----------
    folder : Path
        One that is not there has none.

    Returns
    -------
    dict of str to tuple of str
        By stem, in the order of :data:`SUFFIXES`; capitals in a suffix make no difference.
    """
    names_by_stem: dict[str, tuple[str, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                if dot and f".{suffix.lower()}" in SUFFIXES:
                    names_by_stem[stem] = (*names_by_stem.get(stem, ()), entry.name)
    except OSError:  # it is not there, no folder, or not to be read
        return names_by_stem

    def rank(name: str) -> tuple[int, str]:
        return SUFFIXES.index(f".{name.rpartition('.')[2].lower()}"), name

    several = {stem: names for stem, names in names_by_stem.items() if len(names) > 1}
    return names_by_stem | {stem: tuple(sorted(names, key=rank)) for stem, names in several.items()}


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


def _image_kind(path: Path) -> str | None:
    """Media type of a picture file; None for anything else."""
    try:
        with open_regular(path) as file:
            return picture_kind(file.read(12))
    except (OSError, ValueError):  # ValueError: a name with a null character
        return None


def _is_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _is_within(folder: Path, name: str) -> bool:
    """Whether a name from an item table stays in `folder`, as far as there are no links."""
    if "://" in name:
        return False
    path = Path(name)
    if ".." in path.parts:
        return False
    bases = (folder.absolute(), folder.resolve()) if path.is_absolute() else ()
    return not path.anchor or any(path.is_relative_to(base) for base in bases)


def _joined(cell: Any) -> str:
    return cell if isinstance(cell, str) else " > ".join(cell)

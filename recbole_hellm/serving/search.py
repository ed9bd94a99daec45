"""Finding users by their tokens, and items by their titles or tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence


def folded(text: str) -> str:
    """A text as it is compared: without capitals and accents.

    Examples
    --------
    >>> folded("Café ÉCLAIR")
    'cafe eclair'
    """
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))


class SearchIndex:
    """Tokens that can be found by words of their texts.

    Parameters
    ----------
    tokens : sequence of str
        In the order in which equally good ones are given.
    titles : mapping of str to str, optional
        A token without one is found by itself alone.
    """

    def __init__(self, tokens: Sequence[str], titles: Mapping[str, str] | None = None) -> None:
        self.tokens = list(tokens)
        titles = titles or {}
        self._tokens = [folded(token) for token in self.tokens]
        self._titles = [folded(titles.get(token, "")) for token in self.tokens]

    def find(self, query: str, limit: int) -> list[str]:
        """Tokens whose title and token hold every word of a query.

        First comes the token itself, then tokens and titles that begin with the query, titles in
        which each of the words begins one, and the others.

        Parameters
        ----------
        query : str
            Without words, all tokens are found.
        limit : int
            The most tokens that are given.
        """
        whole = " ".join(folded(query).split())
        words = whole.split(" ") if whole else []
        ranked: list[tuple[int, int]] = []
        for place, (token, title) in enumerate(zip(self._tokens, self._titles, strict=True)):
            if not all(word in title or word in token for word in words):
                continue
            if token == whole:
                quality = 0
            elif token.startswith(whole) or title.startswith(whole):
                quality = 1
            else:
                spaced = f" {title}"
                quality = 2 if all(f" {word}" in spaced for word in words) else 3
            ranked.append((quality, place))
            if not words and len(ranked) == limit:
                break
        return [self.tokens[place] for _, place in sorted(ranked)[:limit]]

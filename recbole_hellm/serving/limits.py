"""How much one request may ask for; what is more is refused in a sentence."""

from __future__ import annotations

LONGEST_HISTORY = 200  # items of a composed history, and those shown of a user's
MOST_ITEMS = 100  # recommendations of a run
LONGEST_TOKEN = 500  # characters of the token of a user or an item
LONGEST_QUERY = 100  # characters that are searched for
MOST_FOUND = 50  # users or items that a search gives
LARGEST_BODY = 128 << 10  # bytes of a request
LONGEST_ADDRESS = 32 << 10  # bytes of what stands behind the ? of an address
MOST_WAITING = 256  # requests that wait for the models
LARGEST_PICTURE = 8 << 20  # bytes of a picture that is shown
REASONS = 3  # items of the history that are named with a recommendation

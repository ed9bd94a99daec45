"""Files that survive: atomic writes, locks, checksums, and readers that end in one sentence."""

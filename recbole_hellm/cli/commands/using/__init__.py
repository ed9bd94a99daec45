"""Commands by which others use finished runs."""

"""The version, which names every run; set up reads it here."""

__version__ = "0.1.0"

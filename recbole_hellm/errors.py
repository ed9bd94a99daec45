"""The package's exception family.

Every mistake a user can make ends in one of these, with one sentence that names the file, line or
key at fault and the way out. The command line prints that sentence and exits with status 2; any
other exception is a defect of the package and keeps its traceback.
"""


class HellmError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(HellmError):
    """An option, model or dataset name is unknown, or a value does not fit."""


class DataError(HellmError):
    """Interactions or item tables are missing, malformed or inconsistent."""


class FeatureError(HellmError):
    """Item features are missing, do not cover the items, or hold values that cannot be used."""


class BackboneError(HellmError):
    """A language-model backbone cannot be built or loaded."""


class RunError(HellmError):
    """A run directory or checkpoint cannot be used."""

"""Check what is in a wheel: ``python .ci/check_wheel.py dist/*.whl``, in the repository's root."""

import os
import sys
import zipfile
from pathlib import Path, PurePosixPath

PACKAGE = "recbole_hellm"


def packaged_files() -> set[str]:
    """Files of the package that Git does not ignore, by their names in a wheel."""
    found = set()
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        paths = (PurePosixPath(Path(folder, file).as_posix()) for file in files)
        found |= {str(path) for path in paths if "__pycache__" not in path.parts}
    # Features that encoders add to the sample in a checkout; .gitignore has them, too.
    return {path for path in found if "/sample/features/text-" not in path and "/." not in path}


def main(wheel: str) -> None:
    """Raise SystemExit if a file is missing from the wheel, or is there and should not be."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    described = {name for name in names if ".dist-info/" in name}
    missing = sorted(packaged_files() - names)
    further = sorted(names - described - packaged_files())
    if missing or further:
        raise SystemExit(f"{wheel} lacks {missing}, and has {further} that it should not have.")
    if not any(name.endswith("/LICENSE") for name in described):
        raise SystemExit(f"{wheel} has no LICENSE.")
    size = os.path.getsize(wheel) / 2**20
    print(f"{wheel}: the {len(names - described)} files of {PACKAGE}, no others, {size:.1f} MiB.")


if __name__ == "__main__":
    main(*sys.argv[1:])

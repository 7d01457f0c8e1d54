"""The files of a path."""

import glob
from pathlib import Path


def files_at(path: str | Path) -> dict[str, Path] | None:
    """Return the files by their names within the folder; None if nothing is there.

    Args:
        path: a file, a folder with all files under it, or a glob; hidden files are left aside.
    """
    path = Path(path).expanduser()
    if path.is_file():
        folder, found = path.parent, iter([path])
    elif path.is_dir():
        folder, found = path, path.rglob("*")
    elif glob.has_magic(str(path)):
        folder = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        found = folder.glob(str(path.relative_to(folder)))
    else:
        return None
    files = {file.relative_to(folder).as_posix(): file for file in found}
    return {name: file for name, file in files.items() if "/." not in f"/{name}" and file.is_file()}

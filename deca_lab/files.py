"""Files are written whole or not at all, and only inside the folder that the user named."""

import os
import tempfile
from pathlib import Path

from deca_lab.errors import BadInput


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step: a reader, or a kill, sees the old file or the new one, never a part."""
    data = data.encode() if isinstance(data, str) else data
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:            # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot write {path}: {why}; what stood there before is untouched") from None


def new_folder(path: Path) -> Path:
    """Create the folder, or accept an empty one; raise BadInput where it holds anything."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = next(path.iterdir(), None)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"out = {str(path)!r} cannot be used as a folder: {why}") from None
    if held is not None:
        another = "holds another run" if (path / "config.json").exists() else f"is not empty ({held.name} is there)"
        raise BadInput(f"out = {str(path)!r} {another}: name a new folder, or continue a run with --resume {path}")
    return path


def read_text(path: Path, what: str) -> str:
    """Return the text of a file of a run folder, or raise BadInput that names it."""
    try:
        if path.exists() and not path.is_file():      # a pipe or a device would never end
            raise OSError("it is not an ordinary file")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(f"{what} {str(path)!r} cannot be read: {error}") from None

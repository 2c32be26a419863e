"""Files are written whole or not at all, and only inside the folder that the user named."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deca_lab.errors import BadInput

LOCK, HALF = ".lock", ".half-"  # names in a run folder: the lock, and files that are being written
LARGE = "it is larger than the memory that is free"
SUMS = "SHA256SUMS"  # `sha256sum -c SHA256SUMS` checks a run folder too


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step."""
    with replaced(path) as half:
        half.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a file to be filled, which then takes the place of `path` in one step.

    A reader, or a kill, sees the old file or the new one, never a part. Raises BadInput where it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{HALF}")
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb+") as written:
                os.fsync(written.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise BadInput(
            f"cannot write {path}: {why}; what stood there before is untouched"
        ) from None


def folder(path: Path) -> Path:
    """Create the folder if it does not exist; raise BadInput if it cannot be a folder, or cannot be read."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        next(path.iterdir(), None)
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"out = {str(path)!r} cannot be used as a folder: {why}") from None
    return path


def new_folder(path: Path, run: bool = True) -> Path:
    """Create the folder, or accept one whose run was killed before it began; raise BadInput if it holds anything.

    `run` says whether it is for a run, which could be continued instead.
    """
    require_new(folder(path), run)
    return path


def require_new(path: Path, run: bool = True) -> None:
    """Raise BadInput if a folder holds anything; nothing is created."""
    try:
        os.fsencode(path).decode()  # safetensors and the report write the name
        files = list(path.iterdir()) if path.exists() else []
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"out = {str(path)!r} cannot be used as a folder: {why}") from None
    occupant = next((f for f in files if f.name != LOCK and HALF not in f.name), None)
    if occupant is None:
        return
    begun = run and (path / "config.json").exists()
    why = "holds another run" if begun else f"is not empty ({occupant.name} is there)"
    instead = f", or continue that run with --resume {path}" if begun else ""
    raise BadInput(f"out = {str(path)!r} {why}: name a new folder{instead}")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep a run folder for this process alone; raise BadInput at once if another process uses it.

    The system frees it when the process dies, however it dies. Half-written files of a killed process are removed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"out = {str(path)!r} is in use: another process is writing this run; wait for it, or stop it"
        ) from None
    except OSError as error:
        raise BadInput(
            f"out = {str(path)!r} cannot be written: {error.strerror or error}"
        ) from None
    try:
        for left in path.glob(f".*{HALF}*"):
            if not left.is_dir():  # a folder of this name is nobody's half-written file
                left.unlink()
        yield
    finally:
        lock.release()


def read_text(path: Path, what: str) -> str:
    """Return the text of a file in a run folder; raise BadInput, with its name, if it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise OSError("it is not an ordinary file")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError, MemoryError) as error:
        raise BadInput(f"{what} {str(path)!r} cannot be read: {str(error) or LARGE}") from None


def sums(texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of texts by the names of their files, in the form of `sha256sum`."""
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def differing(texts: Mapping[str, str], written: str) -> list[str]:
    """Return the names of the texts whose line in a SHA256SUMS is missing or another."""
    lines = set(written.splitlines())
    return [name for name in texts if not lines.issuperset(sums({name: texts[name]}).splitlines())]

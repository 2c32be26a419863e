"""Where the course is, in a checkout or inside an installed package, and copies of it that overwrite nothing."""

from pathlib import Path
from typing import NamedTuple

from deca_lab.course.blank import blank
from deca_lab.errors import BadInput

PACKAGE = Path(__file__).parents[1]
FOLDERS = ("notebooks", "theory")
FIRST = Path("notebooks", "00_start_here.ipynb")


class Copied(NamedTuple):
    """What a copy did: the files that it wrote, and those that stood there already and stayed as they were."""

    folder: Path
    written: list[Path]
    kept: list[Path]


def home() -> Path:
    """Return the folder that holds notebooks/ and theory/: the checkout, else the copy inside the installed package."""
    for place in (PACKAGE.parent, PACKAGE / "course_files"):
        if (place / FIRST).is_file():
            return place
    raise BadInput(
        f"the course is not here: neither {PACKAGE.parent} nor {PACKAGE / 'course_files'} holds {FIRST}; install "
        "deca-lab again, or work in a clone of its repository"
    )


def installed() -> bool:
    """Return whether the course comes out of an installed package, whose files are not the user's to change."""
    return home() != PACKAGE.parent


def notebooks(place: Path | None = None) -> list[Path]:
    """Return the lessons in order, then the theory pages, of the course at `place` (its home when not given)."""
    place = place or home()
    return [path for folder in FOLDERS for path in sorted((place / folder).glob("*.ipynb"))]


def files(place: Path) -> dict[Path, bytes]:
    """Return {path below `place`: content} of all that belongs to the course: notebooks, pages and pictures."""
    paths = (path for folder in FOLDERS for path in sorted((place / folder).iterdir()))
    return {
        path.relative_to(place): path.read_bytes()
        for path in paths
        if path.is_file() and path.name[0] != "."
    }


def copy_to(folder: Path | str) -> Copied:
    """Copy the course into a folder of the user's, its notebooks without outputs and with reveals folded.

    A file that exists already stays, and is named in `kept`.
    """
    course = files(home())
    return write_new(
        Path(folder),
        {name: blank(data) if name.suffix == ".ipynb" else data for name, data in course.items()},
    )


def write_new(folder: Path, contents: dict[Path, bytes]) -> Copied:
    """Write files below a folder, none over another; raises BadInput where the folder cannot be written."""
    done = Copied(folder, [], [])
    for name, data in contents.items():
        (done.written if _write_new(folder / name, data) else done.kept).append(folder / name)
    return done


def _write_new(path: Path, data: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as new:  # x: fails where anything stands, a dangling link too
            new.write(data)
    except FileExistsError:
        if path.is_dir() or not path.parent.is_dir():
            raise BadInput(
                f"cannot write {path}: a file of that name is in the way, or a folder"
            ) from None
        return False
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None
    return True

"""Bytes that are steered by what they reach in the readers: `python tests/hostile/fuzz.py matrix -max_total_time=600`.

Needs atheris, which is no dependency (`pip install atheris`); options are libFuzzer's. Any answer but a value or one line of
BadInput is written to a file crash-*, and the command ends with an error.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["deca_lab"], enable_loader_override=False):
    from test_sequences import READERS, examples, tried


def main():
    read, name = READERS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp())
    (folder / "seeds").mkdir()
    for kind, data in examples().items():
        if READERS[kind][1] == name:
            (folder / "seeds" / "0").write_bytes(data)

    def one(data):
        (folder / name).write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried(read, folder / name)

    atheris.Setup([*sys.argv, str(folder / "seeds")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

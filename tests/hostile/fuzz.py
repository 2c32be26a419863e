"""Bytes that are steered by what they reach in the readers: `python tests/hostile/fuzz.py matrix -max_total_time=600`.

Needs atheris, which is no dependency (`pip install atheris`); options are libFuzzer's. Any answer but a value or one line of
BadInput is written to a file crash-*, and the command ends with an error. The names are those of READERS.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
with atheris.instrument_imports(include=["deca_lab"], enable_loader_override=False):
    from harness import CONFIG, causal_lm_in
    from test_readers import READERS, laid_out, read_quietly

    from deca_lab.lab import runs


def main():
    reader = READERS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp())
    runs.run(CONFIG, folder / "whole")
    causal_lm_in(folder / "model")
    (folder / "read").mkdir()
    laid_out(folder / "whole", folder / "read")
    (folder / "seeds").mkdir()
    (folder / "seeds" / "0").write_bytes(reader.sound(folder / "whole"))

    def one(data):
        (folder / "read" / reader.name).write_bytes(data)
        read_quietly(reader, folder / "read" / reader.name)

    atheris.Setup([*sys.argv, str(folder / "seeds")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

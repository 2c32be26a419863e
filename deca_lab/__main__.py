"""`python -m deca_lab` is the command `deca-lab`."""

from deca_lab.cli import main

main()

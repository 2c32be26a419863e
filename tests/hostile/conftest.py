"""The finished run that all hostile tests damage copies of."""

from harness import whole as whole

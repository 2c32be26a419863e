"""The finished run that all hostile tests damage copies of, and a way to many lives of it."""

from harness import laid as laid
from harness import swift as swift
from harness import whole as whole

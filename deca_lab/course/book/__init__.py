"""The course as one site, by Sphinx and MyST-NB: lessons, theory, how-to pages, reference, and pictures with knobs."""

from deca_lab.course.book.site import Built, build

__all__ = ["Built", "build"]

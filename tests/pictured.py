"""What a live widget shows: the PNG and the words of its HTML."""

import re
from base64 import b64decode
from html import unescape


def seen(picture):
    """Return the bytes of the picture, and the text for those who do not see it."""
    words, packed = re.search(
        r'<img alt="(.*?)" src="data:image/png;base64,(.*?)"', picture.value
    ).groups()
    return b64decode(packed), unescape(words)

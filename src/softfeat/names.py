"""Names of files: how they are printed, and how they fit a file system."""

import hashlib
import os
import unicodedata

LONGEST = 200  # bytes of a name that is made from another; file systems take 255
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # categories that change how a terminal prints
_JOINERS = "\u200c\u200d"  # parts of emoji and of Persian words, which change nothing else


def printable(text: str, keep: str = "") -> str:
    r"""Replaces what a terminal would act on or cannot show by escape sequences.

    These are control characters, line breaks, marks that reverse the direction of text, and bytes
    that are no text.

    >>> printable("red \x1b[31m.jpg")
    'red \\x1b[31m.jpg'

    Args:
        text: Any text, for example a file name.
        keep: Characters that stay as they are, for example a newline.
    """
    return (
        "".join(map(_escaped, text)) if keep == "" else keep.join(map(printable, text.split(keep)))
    )


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shortened(name: str, longest: int = LONGEST) -> str:
    """Cuts a name to a number of bytes; a hash of the whole name keeps it unique.

    Args:
        name: Name of a file or folder.
        longest: Most bytes of the result, 10 or more.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= longest:
        return name
    start = encoded[: longest - 9].decode(errors="ignore")  # whole characters only
    return f"{start}~{hashlib.sha256(encoded).hexdigest()[:8]}"


def folded(name: str) -> str:
    """A form of a name that is equal for two names that some file system takes for the same.

    >>> folded("Photo") == folded("PHOTO")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())

"""Tables as text: their encoding and what separates their cells. Needs nothing but Python."""

import codecs
import csv
import io
from collections.abc import Collection


DELIMITERS = ",;\t"


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file and its encoding: UTF-8 or UTF-16 with or without a byte order mark, else cp1252.

    Raises:
        ValueError: the bytes are none of these.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data[:1] and data[1::2].count(0) > len(data) / 4:
        encoding = "utf-16-le"
    elif data[::2].count(0) > len(data) / 4:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding), encoding.removesuffix("-sig")
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(f"broken {encoding} at byte {error.start}: {error.reason}; save it as UTF-8") from None
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{data[error.start]:02x} at {error.start} is neither UTF-8 nor cp1252; save it as UTF-8"
        ) from None


def header_of(text: str, columns: Collection[str]) -> tuple[str, list[str]]:
    """The delimiter (comma, semicolon or tab) and the cells of a table's first line.

    The delimiter is the one that shows most of `columns`, then the one that gives most cells.
    """

    def cells(delimiter: str) -> list[str]:
        return next(csv.reader(io.StringIO(text), delimiter=delimiter), [])

    def rank(delimiter: str) -> tuple[int, int]:
        names = [plain_name(cell) for cell in cells(delimiter)]
        return len({*names} & {*map(plain_name, columns)}), len(names)

    best = max(DELIMITERS, key=rank)
    return best, cells(best)


def plain_name(column: str) -> str:
    """A column's name without upper case and surplus spaces."""
    return " ".join(column.split()).lower()

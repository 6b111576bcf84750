"""What a file or a path is in place of a data set, and what to do about it: the other half of an error's message."""

import json
import os
import re
from pathlib import Path

from tapo_core.text import wide_encoding

#: As many bytes of a file's beginning as `foreign_kind` wants.
HEAD_BYTES = 4096

_FOLDER = "name its folder instead, which `datasets` reads, or write one JSON object a line"
_COMPRESSED = (
    "compressed ({}); decompress it, or name its folder instead, which `datasets` reads if the name ends in {}"
)
_PARQUET = (b"PAR1", b"PARE")
_FIRST_BYTES = (
    (b"\x1f\x8b", _COMPRESSED.format("gzip", ".jsonl.gz")),
    (b"BZh", _COMPRESSED.format("bzip2", ".jsonl.bz2")),
    (b"\xfd7zXZ\0", _COMPRESSED.format("xz", ".jsonl.xz")),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd", ".jsonl.zst")),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"ARROW1", "an Arrow file; write its table to a Parquet file"),
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer in place of the data; fetch the data with git lfs pull",
    ),
)
_MARKUP = re.compile(rb"<(!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_CELL = rb"""["']?[A-Za-z_][\w .-]*["']?"""
_CSV_HEADER = re.compile(rb"%s([,;\t])%s(?:\1%s)*" % (_CELL, _CELL, _CELL))


def foreign_kind(head: bytes, parquet: bool = False) -> str | None:
    """What a file is in place of lines of JSON (or of Parquet), and what to do, by its first bytes; None if it may be that."""
    if head.startswith(_PARQUET):
        return None if parquet else "a Parquet file; give its name the ending .parquet"
    encoding = wide_encoding(head)
    if encoding is not None:
        return f"{encoding} text, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 OLD > NEW"
    for first_bytes, kind in _FIRST_BYTES:
        if head.startswith(first_bytes):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    line = re.split(rb"[\r\n]", text, maxsplit=1)[0].rstrip()
    if _MARKUP.match(text):
        return "a web page or XML in place of the data (an error page, perhaps); download the file itself"
    if re.match(rb"\[\s*\{", text):
        return f"a JSON array, not lines of JSON; {_FOLDER}: jq -c '.[]' OLD > NEW"
    if re.match(rb"\{\s*[\r\n]\s*\"", text):
        return "JSON with line breaks in its objects, not lines of JSON; write one object a line: jq -c . OLD > NEW"
    table = _CSV_HEADER.fullmatch(line)
    if table is not None and b"\n{" not in text:
        told = f"a table by its first line, {line.decode(errors='replace')[:60]!r}, not lines of JSON"
        if table[1] == b",":
            return f"{told}; give its name the ending .csv and {_FOLDER}"
        return f"{told}; write one JSON object a line"
    return None


def path_hint(path: Path) -> str:
    """What may be meant by a path where nothing is, with a semicolon before it; empty if nobody can tell."""
    name = str(path)
    folder, _, _ = name.rpartition(":")
    if name.startswith("~"):
        return "; ~ stands for nothing here: write the whole path"
    if re.match(r"\w+:/", name):
        return (
            "; not a path: download it and name the file, or write hf:owner/name for a data set of the Hugging Face Hub"
        )
    if os.path.isfile(folder):
        return "; a file has no splits: leave out the colon and what follows it"
    if any(character in name for character in "*?["):
        return "; no pattern is read: name the file, or a folder of files"
    if re.fullmatch(r"[\w-]+/[\w-]+", name):
        return f"; for a data set of the Hugging Face Hub write hf:{name}"
    return ""


def json_hint(line: str, error: json.JSONDecodeError) -> str:
    """What may be the reason that a line is not JSON, with a semicolon before it; empty if nobody can tell."""
    rest = line[error.pos :].strip()
    if not line.strip("\0 "):
        return "; the line is nothing but NUL bytes, as a crash or a full disk leaves them"
    if error.msg.startswith("Invalid \\escape"):
        return r"; JSON writes a backslash twice: \\frac"
    if error.msg == "Extra data":
        return "; take the comma at its end away" if rest == "," else "; put each object on a line of its own"
    if error.msg.startswith("Expecting property name") and rest.startswith("'"):
        return "; JSON has names and texts in double quotes"
    return ""

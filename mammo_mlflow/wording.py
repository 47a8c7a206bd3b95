"""Put exceptions and addresses into words that may be shown and stored: one line, without secrets."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote

from mammo_mlflow.errors import UserError

_NOT = r"\s\"'<>"
_USER = re.compile(rf"(?i)\b([a-z][a-z0-9+.-]*://)[^{_NOT}/?#]*@")
# a password in the URL of a database may hold slashes, and who mistypes such a URL may leave out one of its own
_DATABASE_USER = re.compile(rf"(?i)\b((?:postgres\w*|mysql|mariadb|mssql|oracle)(?:\+\w+)?:/{{0,2}})[^{_NOT}]*@")
_IN_QUERY = re.compile(rf"(?i)([?&]\w*(?:passw(?:or)?d|pwd|token|secret|api_?key)=)[^{_NOT}&#]*")
_PASSWORD = re.compile(r"[\w+.-]+:/*[^:/@]*:(.+)@")
_HIDDEN = "***"
_FORMULA, _NUMBER = ("=", "+", "-", "@", "\t", "\r"), re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|[-+](nan|inf)")
_PATH = re.compile(r"(?<![\w/.:])(?:file:/*)?[~/][^\s'\":;,()\[\]]*/([^\s/'\":;,()\[\]]*)")


INTERRUPTED = "interrupted"
"""Why a run ended that was told to end."""


def scrubbed(text: str, *uris: str) -> str:
    """Remove user and password of any URI in a text; passwords of `uris` are hidden wherever they stand."""
    if "@" in text or "=" in text:
        text = _IN_QUERY.sub(rf"\1{_HIDDEN}", _DATABASE_USER.sub(r"\1", _USER.sub(r"\1", text)))
    for uri in uris:
        for secret in filter(None, (match[1] for match in [_PASSWORD.match(uri)] if match)):
            for spelled in {secret, unquote(secret)}:
                text = re.sub(rf"(?<!\w){re.escape(spelled)}(?!\w)", _HIDDEN, text)
    return text


def first_line(problem: BaseException | str, *uris: str, most: int = 500) -> str:
    """The first line of an exception's message, without secrets; its kind in words where it has no message."""
    lines = scrubbed(str(problem), *uris).strip().splitlines()
    return lines[0].strip()[:most] if lines else f"an unexpected {_kind(type(problem).__name__)}"


def reason(problem: BaseException) -> str:
    """Word an exception as the reason why something ended, in one line for users, without names of classes."""
    if isinstance(problem, (KeyboardInterrupt, SystemExit)):
        return INTERRUPTED
    if isinstance(problem, MemoryError):
        return "out of memory"
    if isinstance(problem, UserError):
        return " ".join(scrubbed(str(problem)).split())
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    kind, said = _kind(type(problem).__name__), first_line(problem) if str(problem).strip() else ""
    return f"an unexpected {kind}: {said}" if said else f"an unexpected {kind}"


def in_words(last_line: str) -> str:
    """Word the last line of a traceback: `ValueError: no rows` is `an unexpected value error: no rows`."""
    found = re.match(r"(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Warning|Exit))(?:: (.*))?$", last_line)
    if found is None:
        return scrubbed(last_line)
    said = f": {scrubbed(found[2])}" if found[2] else ""
    return f"an unexpected {_kind(found[1])}{said}"


def without_paths(text: str) -> str:
    """Shorten every absolute path in a text to its last name: a store should not tell whose folders lay where."""
    return _PATH.sub(r"…/\1", text)


def no_formula(cell: object) -> object:
    """A cell of a CSV; a text that a spreadsheet would take for a formula begins with an apostrophe instead."""
    odd = isinstance(cell, str) and cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if odd else cell


class NoSecrets(logging.Filter):
    """A log filter that removes the secrets of addresses from every record, and drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message by the finished one without secrets."""
        record.msg, record.args = scrubbed(record.getMessage()), None
        return True


NO_SECRETS = NoSecrets()


def _kind(name: str) -> str:
    """The name of an exception's class in words: `ValueError` is a value error."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words.split())

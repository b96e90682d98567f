"""The Optuna storage of a study: a journal file in the study's folder, or a PostgreSQL database."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from regularization.errors import UserError
from regularization.runs import directory

if TYPE_CHECKING:
    from sqlalchemy import URL

FOLDER = "optuna"
JOURNAL = f"{FOLDER}/journal.log"
# Attempts to open a database: if two processes open an empty one at once, both create the tables and one fails.
ATTEMPTS = 4
# Timeouts in seconds, tcp_user_timeout in milliseconds. By default, the system takes a quarter of an hour to notice
# that a server no longer responds.
CONNECTION = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5}


class JournalLock(FileLock):
    """The journal's lock. The system releases it when its process dies; Optuna's own would then last for 30 seconds."""

    def __init__(self, path: str) -> None:
        super().__init__(path, fallback_to_soft=False, poll_interval=0.01)

    def __reduce__(self) -> Any:
        """Pickles the lock for the process of a trial, which does not hold it."""
        return JournalLock, (self.lock_file,)


def open_journal(folder: Path) -> BaseStorage:
    """Opens the journal of the study in ``folder``, or creates it if there is none.

    Raises:
        UserError: When it can't be read, for example because the disk was full.
    """
    path = folder / JOURNAL
    path.parent.mkdir(exist_ok=True)
    try:
        lock = JournalLock(str(path.parent / directory.LOCK))
        return JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{path} is damaged ({error}).\nRemove it: the same command goes on from the runs.") from error


def open_database(url: str) -> BaseStorage:
    """Opens Optuna's tables in a PostgreSQL database, or creates them if there are none.

    Raises:
        UserError: When it is not a PostgreSQL database, or cannot be opened.
    """
    if _parse(url) is None:
        raise UserError(
            "--storage must be postgresql://USER@HOST/DATABASE, with the password in PGPASSWORD or ~/.pgpass;\n"
            "in a URL, %40 stands for @. Without --storage, machines share the study's folder"
        )
    # Without the name of a driver, SQLAlchemy 2.1 would use another one than the extra installs.
    options = {"pool_pre_ping": True, "connect_args": CONNECTION}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return RDBStorage(re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url), engine_kwargs=options)
        except ImportError as error:
            raise UserError(f"--storage: pip install 'regularization[postgresql]' ({error})") from error
        except Exception as error:
            # A malformed URL, or tables of another version of Optuna, raise built-in exceptions.
            if not (is_storage_error(error) or isinstance(error, ValueError | KeyError | RuntimeError)):
                raise
            if attempt == ATTEMPTS:
                reason = _without_secrets(_first_line(error), url)
                raise UserError(f"--storage {without_password(url)} cannot be opened: {reason}") from error
            time.sleep(0.5)
    raise AssertionError


def without_password(url: str) -> str:
    """The URL without secrets: user, host, port and database; a placeholder if the text is not clearly a URL."""
    from sqlalchemy import URL

    if (parsed := _parse(url)) is None:
        return "postgresql://…"
    return URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database
    ).render_as_string()


def _parse(url: str) -> "URL | None":
    """Parses a PostgreSQL URL; None for any other text, which may contain a password at any place.

    A second ``@`` belongs to a password that is not percent-encoded, part of which would be parsed as the host.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not re.match(r"postgres(ql)?(\+\w+)?://", url) or url.count("@") > 1 or re.search(r"\s", url):
        return None
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None


def _without_secrets(message: str, url: str) -> str:
    """Masks the password and the whole query of ``url`` in ``message``."""
    parsed = _parse(url)
    assert parsed is not None
    values = [parsed.password, *(str(value) for value in parsed.query.values()), url.partition("?")[2]]
    for value in sorted(filter(None, values), key=len, reverse=True):
        message = message.replace(value, "***")
    return message


def is_storage_error(error: BaseException) -> bool:
    """Whether the error comes from a database that has not answered."""
    module = type(error).__module__.partition(".")[0]
    return module in ("sqlalchemy", "psycopg2") or isinstance(error, optuna.exceptions.StorageInternalError)


@contextmanager
def ignoring_storage_errors() -> Iterator[None]:
    """Suppresses the errors of a database that does not answer."""
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

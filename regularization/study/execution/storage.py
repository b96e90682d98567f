"""The storage that coordinators on several machines share: a database with Optuna's tables."""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.samplers import optuna

# Seconds between two signs of life of a coordinator, and without one until its trials are given to others.
HEARTBEAT = 20
GRACE = 120
# Attempts to open it: two who come to an empty database at once both begin to make the tables, and one of them fails.
TRIES = 4
# Of a server that is gone without a word, the system would otherwise hear for a quarter of an hour and more.
SOON = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5}
# A file of the study's folder: the study's name in the storage.
NAME = "storage.txt"


class Storage:
    """Optuna's tables in the database at ``url``.

    Args:
        url: Such as ``postgresql://user:password@host/database``, or ``sqlite:///file``.

    Raises:
        UserError: When it can't be opened.
    """

    def __init__(self, url: str) -> None:
        optuna()  # which brings SQLAlchemy, or says that it is missing
        # Without a driver's name, SQLAlchemy 2.1 would look for another one than the extra brings.
        self._url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url)
        self.shown = _without_password(url)
        self._answered = time.monotonic()
        for attempt in range(TRIES):
            try:
                self.tables = self._tables()
                break
            except ImportError as error:
                what = "pip install 'regularization[postgresql]'" if "postgres" in url else "its driver is missing"
                raise UserError(f"--storage {self.shown}: {what} ({error})") from error
            except Exception as error:
                # A URL that is none, or tables of another version of Optuna's, come as errors of Python's.
                if not (_of_a_database(error) or isinstance(error, ValueError | KeyError | RuntimeError)):
                    raise
                if attempt == TRIES - 1:
                    raise UserError(f"--storage {self.shown} can't be opened: {_first_line(error)}") from error
                time.sleep(0.5)

    def _tables(self) -> Any:
        options = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
        soon = {"connect_args": SOON} if self._url.startswith("postgresql+psycopg") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are an experiment of Optuna's
            return optuna().storages.RDBStorage(self._url, engine_kwargs={"pool_pre_ping": True, **soon}, **options)

    def study(self, name: str, **options: Any) -> Any:
        """Optuna's study of that name, made where there is none.

        Raises:
            UserError: When the storage does not answer.
        """
        try:
            return optuna().create_study(storage=self.tables, study_name=name, load_if_exists=True, **options)
        except Exception as error:
            if not _of_a_database(error):
                raise
            raise UserError(f"--storage {self.shown} does not answer: {_first_line(error)}") from error

    @contextmanager
    def patient(self) -> Iterator[None]:
        """What the storage does not answer in this block is left, to be asked again, until its silence is too long.

        Raises:
            UserError: When it has not answered for so long that others may take this coordinator for dead.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
            self._answered = time.monotonic()
        except Exception as error:
            if not _of_a_database(error):
                raise
            if time.monotonic() - self._answered > GRACE:
                raise UserError(
                    f"--storage {self.shown} does not answer: {_first_line(error)}\n"
                    "The same command goes on once it does."
                ) from error


def name_in(folder: Path) -> str:
    """The name in the storage of the study in ``folder``, given once; the folder must be held."""
    path = folder / NAME
    if not path.is_file():
        # A folder that is made again is another study, whatever the storage remembers of the one before.
        directory.write_text(path, f"{folder.parent.name}/{folder.name} {time.time_ns():x}\n")
    return path.read_text().strip()


def _without_password(url: str) -> str:
    """The URL as it may be shown."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).set(query={}).render_as_string()
    except (ArgumentError, ValueError):
        return f"{url.partition(':')[0]}:…"


def _of_a_database(error: Exception) -> bool:
    module = type(error).__module__.partition(".")[0]
    return module in ("sqlalchemy", "psycopg2", "sqlite3") or type(error).__name__ == "StorageInternalError"


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

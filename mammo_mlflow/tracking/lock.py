"""A lock in the model registry: one holder at a time among all machines that share a tracking store.

MLflow has no lock, but the name of a registered model is unique, in SQLite, on PostgreSQL and behind a server alike:
who makes the model `mammo.lock-NAME` holds the lock. Its holder renews it every few seconds; who waits takes it over
when it has not changed for `EXPIRY_SECONDS` of the waiting machine's own clock, so that no two clocks have to agree. On
one machine a lock file stands before it, which the system gives back when its holder is killed, so that nobody there
waits for that.

MLflow has no request that depends on the holder either. Whoever stood still for longer than the expiry may send one
more write when it goes on; `Lock.check` before each write that matters makes that time short.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import UserError
from mammo_mlflow.files import locked, shared_lock
from mammo_mlflow.names import LOCK, Tag
from mammo_mlflow.processes import this_process
from mammo_mlflow.tracking.requests import broke_off, is_away, not_allowed, or_none
from mammo_mlflow.wording import first_line

EXPIRY_SECONDS = 90.0
"""A holder that has not renewed its lock for so long counts as dead."""
RENEW_SECONDS = 15.0
LOOK_SECONDS = 0.5
"""How often a waiting command looks whether the lock is free."""
DESCRIPTION = (
    "No model, but a lock: one command at a time decides. Whoever has it deletes it, or the next one after a kill."
)

TRIES = 3
"""How often a request is sent whose answer breaks off."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Lock:
    """A held lock on `name`, renewed from a thread of its own."""

    def __init__(self, client: MlflowClient, name: str, place: str) -> None:
        self._client, self._name, self._place = client, name, place
        self._model, self._token = f"{LOCK}{name}", uuid.uuid4().hex
        self._over = threading.Event()
        self._renewal = threading.Thread(target=self._renew, daemon=True)

    def check(self) -> None:
        """Check that this process still holds the lock. Raises `UserError` where another one took it over."""
        holder = _tags(self._client, self._model).get(Tag.HOLDER, "")
        if holder != self._token:
            why = f"since this one was not heard of for {EXPIRY_SECONDS:.0f} s; issue it again"
            raise UserError(f"{self._name}: expected to decide alone, found that another command does, {why}")

    def take(self) -> None:
        """Wait for the lock and take it, from a holder that is dead too. Raises `UserError` where that is refused."""
        seen, since, told = "", time.monotonic(), False
        while not self._make():
            tags = _tags(self._client, self._model)
            holder, who = tags.get(Tag.HOLDER, ""), tags.get(Tag.PROCESS, "").rpartition(":")[0]
            if holder == self._token:  # made by a request whose answer was lost
                break
            if (state := f"{holder} {tags.get(Tag.BEAT)}") != seen:
                seen, since = state, time.monotonic()
            silent = time.monotonic() - since > EXPIRY_SECONDS
            # the lock file is this process's now, so that whoever had both is dead
            if holder and (silent or tags.get(Tag.PLACE) == self._place):
                _log.warning("%s: taking the lock over from process %s, which is gone", self._name, who)
                _remove(self._client, self._model, holder)
            elif silent:
                raise UserError(f"'{self._model}': expected a lock that this user may see, found another user's")
            elif holder and not told:
                _log.info("%s: waiting for another command that decides, process %s", self._name, who)
                told = True
            time.sleep(LOOK_SECONDS)
        for left in _answered(lambda: self._client.search_registered_models(f"name LIKE '{self._model}.%'")):
            _delete(self._client, left.name)
        self._renewal.start()

    def give_back(self) -> None:
        """Give the lock back; where the store does not answer it expires."""
        self._over.set()
        try:
            _remove(self._client, self._model, self._token)
        except (MlflowException, OSError, UserError) as problem:
            said = first_line(problem, most=120)
            _log.warning("%s: its lock stays for %.0f s: %s", self._name, EXPIRY_SECONDS, said)

    def _make(self) -> bool:
        """Make the registered model that is the lock; False where there is one."""
        tags = {Tag.HOLDER: self._token, Tag.BEAT: "0", Tag.PROCESS: this_process(), Tag.PLACE: self._place}
        try:
            _answered(lambda: self._client.create_registered_model(self._model, tags, DESCRIPTION))
        except MlflowException as problem:
            # MLflow reads the one that is in the way, which may be gone by then
            if problem.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                raise
            return False
        return True

    def _renew(self) -> None:
        beat = 0
        while not self._over.wait(RENEW_SECONDS):
            beat += 1
            with suppress(Exception):  # what matters of it `check` tells
                if _tags(self._client, self._model).get(Tag.HOLDER) == self._token:
                    self._client.set_registered_model_tag(self._model, Tag.BEAT, str(beat))


@contextmanager
def alone(client: MlflowClient, name: str, store: str) -> Iterator[Lock]:
    """Hold the lock on `name` during the block, among all commands of all machines that work with the registry `store`.

    `name` is letters, digits, `_`, `-`. Waits for its holder, and takes it over from one that is dead.
    """
    file = shared_lock("registry", f"{store} {name}")
    waiting = f"{name}: waiting for another command of this machine that decides"
    with locked(file, waiting, mode=0o666):
        lock = Lock(client, name, _place(file))
        try:
            lock.take()
            yield lock
        finally:
            lock.give_back()


def _place(file: Path) -> str:
    """What only processes have in common that share a lock file: the machine since it was started, disk and file."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else f"{os.uname().nodename}-{psutil.boot_time():.0f}"
    found = file.stat()
    return f"{started}:{found.st_dev}:{found.st_ino}"


def _tags(client: MlflowClient, model: str) -> dict[str, str]:
    """The tags of a lock; none where there is no lock."""
    found = _answered(lambda: or_none(lambda: client.get_registered_model(model)))
    return {} if found is None else dict(found.tags)


def _remove(client: MlflowClient, model: str, holder: str) -> None:
    """Remove a lock if this is its holder.

    Renaming is atomic: of two that remove it one does; what it then has is looked at before it is deleted, and put back
    where it is a later holder's.
    """
    if _tags(client, model).get(Tag.HOLDER) != holder:
        return
    aside = f"{model}.{uuid.uuid4().hex}"
    try:
        client.rename_registered_model(model, aside)
    except MlflowException as problem:
        if not_allowed(problem):
            raise UserError(f"'{model}': expected a lock that this user may remove, found another user's") from None
        if not broke_off(problem):  # else it may have been done
            if is_away(problem):
                raise
            return
    if _tags(client, aside).get(Tag.HOLDER) == holder:
        _delete(client, aside)
    else:
        with suppress(MlflowException):  # somebody made a new one: `check` tells the holder of the one that is lost
            client.rename_registered_model(aside, model)


def _delete(client: MlflowClient, model: str) -> None:
    _answered(lambda: or_none(lambda: client.delete_registered_model(model)))


def _answered(request: Callable[[], T]) -> T:
    """Send a request, again where its answer breaks off; MLflow repeats only those that got none."""
    for _ in range(TRIES - 1):
        try:
            return request()
        except MlflowException as problem:
            if not broke_off(problem):
                raise
            time.sleep(LOOK_SECONDS)
    return request()

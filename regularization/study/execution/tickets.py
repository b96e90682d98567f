"""Tickets: how coordinators on several machines share out the trials of one study."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.config import Trial
from regularization.study.execution.pending import Pending
from regularization.study.execution.storage import HEARTBEAT, Storage
from regularization.study.samplers import optuna

TRIAL = "trial"
REASON = "reason"
# Seconds until a file that another machine has written is sure to be seen on a network's file system.
UNSEEN = 120


class Tickets(Pending):
    """The trials of a stage, as tickets in a storage: an Optuna trial each, with the name of ours.

    A ticket waits, runs, and is complete or has failed for a reason. One that failed without a reason was given back
    or taken from a coordinator that gave no more signs of life: its trial gets a new ticket. What a trial's folder
    says counts more: a trial that is done there needs none.

    Tickets are made and taken under the lock of the study's folder. Taking one is a single step in PostgreSQL by
    itself; SQLite has no locks of rows.

    Args:
        storage: Where the tickets are.
        name: Of the stage's tickets there; the same for all coordinators.
        trials: The trials of the stage, in an order that is the same for all coordinators.
        folder: The study's folder.
    """

    shared = True

    def __init__(self, storage: Storage, name: str, trials: Sequence[Trial], folder: Path) -> None:
        super().__init__([])
        self._plan = {trial.name: trial for trial in trials}
        self._completed: dict[int, float] = {}
        self._storage = storage
        self._study = storage.study(name, direction="maximize")
        self._states = optuna().trial.TrialState
        self._folder = folder
        self._mine: dict[str, int] = {}
        self._ended: list[tuple[int, float, str | None]] = []
        self._waiting = 0
        self._open = True
        self._looked = self._beat = -float("inf")

    @property
    def waiting(self) -> int:
        """How many could be taken now, by whoever is first."""
        return len(self._trials) + self._waiting

    @property
    def open(self) -> bool:
        """Whether a trial waits, or is run by someone who may not come to its end."""
        return self._open or bool(self._trials or self._ended)

    def look(self) -> None:
        """Gives signs of life, says what has ended, and makes tickets for trials that have none."""
        if time.monotonic() - self._looked < 1:
            return
        with self._storage.patient():
            self._say()
            optuna().storages.fail_stale_trials(self._study)
            if self._without_ticket(self._study.get_trials(deepcopy=False)):
                self._make()
            now = self._study.get_trials(deepcopy=False)
            self._waiting = sum(ticket.state == self._states.WAITING for ticket in now)
            running = any(ticket.state == self._states.RUNNING for ticket in now)
            self._open = bool(self._waiting or running or self._without_ticket(now) or self._unseen(now))
        self._looked = time.monotonic()

    def take(self) -> Trial | None:
        """The next trial, for which this coordinator has the ticket now."""
        if self._trials:
            return super().take()
        with self._storage.patient(), suppress(UserError), directory.exclusive_lock(self._folder, 1.0):
            for ticket in self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)):
                if (trial := self._plan.get(ticket.user_attrs[TRIAL])) is None:
                    continue
                # First the sign of life: a ticket that runs without any would never be taken for lost.
                self._storage.tables.record_heartbeat(ticket._trial_id)
                if not self._claimed(ticket):
                    continue
                self._waiting -= 1
                at_work = trial.name in self._mine
                self._mine[trial.name] = ticket._trial_id
                if at_work:
                    continue  # others took this coordinator for dead, and its trial got a new ticket
                if not trial.done:
                    return trial
                self.end(trial, 0.0, None)
        return None

    def end(self, trial: Trial, accuracy: float, reason: str | None) -> None:
        """Completes a ticket, or has it fail for good."""
        self._ended.append((self._mine.pop(trial.name), accuracy, reason))
        with self._storage.patient():
            self._say()

    def close(self) -> None:
        """Gives tickets back, whose trials get others."""
        with self._storage.patient(), suppress(UserError):
            self._say()
            for ticket in self._mine.values():
                with suppress(self._finished()):
                    self._storage.tables.set_trial_state_values(ticket, self._states.FAIL)
        self._mine.clear()

    def _say(self) -> None:
        tables = self._storage.tables
        while self._ended:
            ticket, accuracy, reason = self._ended[0]
            # Someone who took this coordinator for dead may have been quicker.
            with suppress(self._finished()):
                if reason is not None:
                    tables.set_trial_user_attr(ticket, REASON, reason)
                    tables.set_trial_state_values(ticket, self._states.FAIL)
                else:
                    tables.set_trial_state_values(
                        ticket, self._states.COMPLETE, [0.0 if math.isnan(accuracy) else accuracy]
                    )
            self._ended.pop(0)
        if time.monotonic() - self._beat > HEARTBEAT / 2:
            for ticket in self._mine.values():
                tables.record_heartbeat(ticket)
            self._beat = time.monotonic()

    def _make(self) -> None:
        with suppress(UserError), directory.exclusive_lock(self._folder, 1.0):
            for name in self._without_ticket(self._study.get_trials(deepcopy=False)):
                self._study.enqueue_trial({}, user_attrs={TRIAL: name})

    def _claimed(self, ticket: Any) -> bool:
        """Whether this coordinator is the first to take it."""
        with suppress(self._finished()):
            return bool(self._storage.tables.set_trial_state_values(ticket._trial_id, self._states.RUNNING))
        return False

    def _without_ticket(self, tickets: Sequence[Any]) -> list[str]:
        """The trials that are not done, and that nobody will do."""
        standing = {ticket.user_attrs[TRIAL] for ticket in tickets if self._stands(ticket)}
        return [name for name, trial in self._plan.items() if name not in standing and not trial.done]

    def _stands(self, ticket: Any) -> bool:
        if ticket.state == self._states.COMPLETE:
            # By this machine's clock alone: another one's may be minutes off.
            return time.monotonic() - self._completed.setdefault(ticket.number, time.monotonic()) < UNSEEN
        return bool(ticket.state != self._states.FAIL or REASON in ticket.user_attrs)

    def _unseen(self, tickets: Sequence[Any]) -> bool:
        """Whether another machine has completed a trial whose result is not to be seen yet from here."""
        complete = [ticket for ticket in tickets if ticket.state == self._states.COMPLETE and self._stands(ticket)]
        found = [self._plan.get(ticket.user_attrs[TRIAL]) for ticket in complete]
        return not all(trial.done for trial in found if trial is not None)

    def _finished(self) -> type[Exception]:
        error: type[Exception] = optuna().exceptions.UpdateFinishedTrialError
        return error

"""Holding the leader's lease in the database, and knowing for how long without a gap."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from shared.db.repositories import workers
from shared.db.session import database_now

logger = logging.getLogger(__name__)

LEADER_NAME = "sweeps"
CLOCK_SLACK = timedelta(seconds=2)
"""The database's clock and ours may drift this far apart between two contacts."""


class Leadership:
    """One candidate's view of the lease. All times are the database's.

    One thread takes and renews the lease (`hold`, `release`); every other one may ask (`confirm`)
    and `interrupt`.

    `elapsed` is a clock that nobody sets: against it a step of the database's clock is seen.
    """

    def __init__(
        self,
        owner: str,
        *,
        lease_seconds: float,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
        self._elapsed = elapsed
        self._last_elapsed = 0.0
        self._token: int | None = None
        self._since: datetime | None = None
        self._last_contact: datetime | None = None

    @property
    def held(self) -> bool:
        """Whether the last contact with the database found this candidate leading."""
        return self._token is not None

    def hold(self, session: Session) -> bool:
        """Take or renew the lease; whatever else this transaction writes, it writes as leader.

        Until the commit nobody else can take the lease. Returns False when somebody else leads.
        """
        now, elapsed = database_now(session), self._elapsed()
        if not self._renew(session, now):
            self._token = None
            self._since = None
            self._token = workers.take_leadership(
                session, LEADER_NAME, self._owner, now=now, lease=self._lease
            )
        if self._token is None:
            return False
        if self._since is None or self._is_broken(now, elapsed):
            if self._since is not None:
                logger.warning("The lead was out of sight, or a clock was set: all leases anew.")
            self._since = now
        self._last_contact, self._last_elapsed = now, elapsed
        return True

    def confirm(self, session: Session) -> bool:
        """Whether this candidate leads, so that what this transaction writes it writes as leader.

        Until the commit nobody else can take the lease.
        """
        return self.held and self._renew(session, database_now(session))

    def _renew(self, session: Session, now: datetime) -> bool:
        token = self._token
        return token is not None and workers.renew_leadership(
            session, LEADER_NAME, self._owner, token, expires_at=now + self._lease
        )

    def _is_broken(self, now: datetime, elapsed: float) -> bool:
        """Whether more has happened since the last contact than time passing by."""
        if self._last_contact is None:
            return True
        passed = now - self._last_contact
        own = timedelta(seconds=elapsed - self._last_elapsed)
        return passed > self._lease or abs(passed - own) > CLOCK_SLACK

    def unbroken_seconds(self) -> float:
        """How long this candidate has led without losing sight of the database.

        A gap longer than the leader's lease (an outage, a sleeping laptop) and a clock that was
        set start the count anew: nobody is declared dead for what they hid.
        """
        if self._since is None or self._last_contact is None:
            return 0.0
        return (self._last_contact - self._since).total_seconds()

    def interrupt(self) -> None:
        """The database could not be reached: start counting anew."""
        self._since = None

    def release(self, session: Session) -> None:
        """Let another candidate lead at once."""
        if self._token is not None:
            workers.release_leadership(session, LEADER_NAME, self._owner, self._token)
            self._token = None

"""Holding the leader's lease in the database, and knowing for how long without a gap."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from shared.db.repositories import workers
from shared.db.session import database_now

LEADER_NAME = "sweeps"


class Leadership:
    """One candidate's view of the lease. All times are the database's. Not thread-safe."""

    def __init__(self, owner: str, *, lease_seconds: float) -> None:
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
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
        now = database_now(session)
        expires_at = now + self._lease
        if self._token is not None and not workers.renew_leadership(
            session, LEADER_NAME, self._owner, self._token, expires_at=expires_at
        ):
            self._token = None
        if self._token is None:
            self._since = None
            self._token = workers.take_leadership(
                session, LEADER_NAME, self._owner, now=now, expires_at=expires_at
            )
        if self._token is None:
            return False
        slept = self._last_contact is not None and now - self._last_contact > self._lease
        if self._since is None or slept:
            self._since = now
        self._last_contact = now
        return True

    def unbroken_seconds(self) -> float:
        """How long this candidate has led without losing sight of the database.

        A gap longer than the leader's lease (an outage, a sleeping laptop, a clock set forward)
        starts the count anew: nobody is declared dead for what the gap hid.
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

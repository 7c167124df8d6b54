"""How long things take in a job's life, in seconds; `Settings.seconds()` scales each of them."""

from __future__ import annotations

LEASE_SECONDS = 45.0
"""A worker that is silent for longer has lost its job."""
HEARTBEAT_SECONDS = 10.0
"""Between a worker's signs of life."""
WISH_SECONDS = 2.0
"""Between its looks at what a running job's owner wants."""
POLL_SECONDS = 30.0
"""A worker looks for queued jobs this often, wake-up or not."""
RESEND_SECONDS = 60.0
"""After which a queued job is sent for again."""
DISPATCH_SECONDS = 1.0
"""Between the leader's rounds: wake-ups and pointers."""
REAP_SECONDS = 5.0
"""Between sweeps for expired leases."""
LEADER_LEASE_SECONDS = 15.0
"""A leader that is silent for longer can be replaced."""
CLEANUP_SECONDS = 600.0
"""Between deletions of what is too old."""
GARBAGE_SECONDS = 3600.0
"""Between searches for objects that no row names."""

ANSWER_HOURS = 48
"""How long the answer to an Idempotency-Key is kept; real time, not scaled."""
WORKER_HOURS = 24
"""How long a silent worker stays in the list; real time, not scaled."""

RELAY_SECONDS = 0.5
"""A line of a job's process is in the database after about this long."""
RETRY_FIRST_SECONDS = 1.0
"""Before the first repetition while the database or the object store is away; then it doubles."""
RETRY_LAST_SECONDS = 30.0
"""The longest pause between two repetitions."""
FULL_STORE_SECONDS = 900.0
"""A job whose results find no room for this long has failed: a full store does not empty itself."""
CANCEL_GRACE_SECONDS = 30.0
"""A cancelled process that is still there after this long is killed."""
DRAIN_GRACE_SECONDS = 90.0
"""The same when the worker goes down: time to finish a step and store a checkpoint."""
PAUSE_GRACE_SECONDS = 600.0
"""The same when the owner pauses the job."""
SILENCE_SECONDS = 120.0
"""A process that trains or evaluates may be silent this long, and five usual gaps between lines."""
COMPILE_SILENCE_SECONDS = 1200.0
"""The same in the phase `compile`, which has nothing to tell until it is over."""
LONG_SILENCE_SECONDS = 1800.0
"""The same in every other phase: loading, learning merges, sampling."""
ALIVE_SECONDS = 5.0
"""Between a worker's touches of its file of life."""

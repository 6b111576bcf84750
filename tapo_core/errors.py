"""The failure model of TAPO, in one place.

Three kinds of failure are kept apart, because mixing them ruins a run silently:

* A failure that is **a row**: the model wrote something that does not parse, has no answer, or was cut off; a verifier
  could not decide. These never raise. They are stored as outcomes (`VerificationOutcome`, `ParseOutcome`) and counted.
  An ``unknown`` verdict is never reward 0.
* A failure that **stops a stage**: the store is locked, the engine died, the disk is full (`TransientError`).
  The stage has written nothing and can be run again.
* A failure that **stops the run**: bad input (`UserError`), a policy that does not match its checkpoint
  (`PolicyMismatchError`), a store that contradicts itself (`IntegrityError`). Running again without a change cannot help.

The command line turns a `UserError` into one line on standard error and exit code 2.
"""


class TapoError(Exception):
    """Base of every error that TAPO raises on purpose."""


class UserError(TapoError):
    """Bad input: a config key, a data row, a path. The message names it and says what to do. Exit code 2."""


class ConfigError(UserError):
    """A configuration file or override is wrong. The message names the key."""


class DataError(UserError):
    """A data file or one of its rows is wrong. The message names file and row."""


class TransientError(TapoError):
    """The stage failed for a reason that may pass (lock, engine death, memory, disk). Nothing was written."""


class OutOfMemoryError(TransientError):
    """Memory, of the machine or of a device, did not suffice. Nothing was written."""


class StageGaveUpError(TransientError):
    """A stage was tried as often as `limits.retries` says, and failed each time. The message says what to do."""


class StoreLockedError(TransientError):
    """Another process holds the DuckDB file open for writing. The message carries its PID when DuckDB tells it."""


class RunLockedError(TransientError):
    """Another process has what only one may have, most often a run. The message carries its PID. Nothing was written."""


class IntegrityError(TapoError):
    """The store contradicts itself, or a retry produced different content under the same id. The run must stop."""


class PolicyMismatchError(TapoError):
    """The sampling engine's weights or log-probabilities are not the published checkpoint's. The run must stop."""

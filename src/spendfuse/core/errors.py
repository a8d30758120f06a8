"""The tree of exceptions. A refusal is not one of them: it is a value, `core.decisions.Deny`."""


class SpendfuseError(Exception):
    """Whatever Spendfuse raises on purpose."""


class ConfigInvalid(SpendfuseError):
    """A config can't be used. The message names the file, the key path, what was got and what is expected."""


class LedgerError(SpendfuseError):
    """The ledger can't do what was asked."""


class LedgerUnavailable(LedgerError):
    """The store can't be reached or can't commit; nothing is known to have changed."""


class LedgerClosed(LedgerUnavailable):
    """The ledger of this process has been closed, or its process is draining."""


class LimitsOutdated(LedgerUnavailable):
    """Another process applied newer limits to this store; one with older limits must not admit calls."""


class LimitUnknown(LedgerError):
    """No limit in force has this name."""


class ReservationUnknown(LedgerError):
    """No reservation and no entry has this id."""


class ReservationForgotten(ReservationUnknown):
    """The reservation was made so long ago that retention has deleted its entries, if it had any: nothing about it can
    change any more, and it is never charged again."""


class ReservationEnded(LedgerError):
    """The reservation has its closing entry already, so it can be neither reserved nor extended again."""

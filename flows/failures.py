"""What an error is called in a sentence, and whether it may pass by itself."""

import errno

from storage.errors import StorageError, UnreachableError
from tintem_core.errors import TintemError

_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def may_pass(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of a network or a disk that may work again."""
    while error is not None:
        if isinstance(error, UnreachableError | ConnectionError | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False


def describe(error: BaseException) -> str:
    """Say in a sentence what went wrong."""
    if isinstance(error, TintemError | StorageError):
        return str(error)
    return f"{type(error).__name__}: {error}"

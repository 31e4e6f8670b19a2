"""What can go wrong in the core.

TintemError
├── InputError            the user asked for something impossible; the message holds the cure
│   ├── UnknownModelError a name timm does not know
│   └── WeightsError      a weight file that does not fit the model
├── ShapeError            two arrays that should agree do not
├── DegenerateError       a quantity that is undefined on this data (a constant batch, n < 3)
├── NotApplicableError    an export format that has no place for this student
└── VerificationError     a result that must not be published (export differs from the model)
"""


class TintemError(Exception):
    """Root of every error that TinTeM raises on purpose."""


class InputError(TintemError):
    """The user's input cannot work; the message says what, where and the cure."""


class UnknownModelError(InputError):
    """A model name that timm does not know."""


class WeightsError(InputError):
    """A weight file that does not fit the model."""


class ShapeError(TintemError):
    """Two arrays that should agree in shape do not."""


class DegenerateError(TintemError):
    """A quantity that is undefined on this data."""


class NotApplicableError(TintemError):
    """An export format has no place for this student; the message says why."""


class VerificationError(TintemError):
    """A result that must not be published."""

"""What the terms of a loss count."""

from pydantic import BaseModel, Field


class TermWeights(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How much the terms of a loss count."""

    centred_weight: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="weight of the cosine that is taken from the mean target on (objective tintem, "
        "mapping.fit once): what tells one photo from another",
    )
    local_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of the patch-token term, the paper has 1; needs cache.tokens",
    )
    local_per_token: bool = Field(
        False, description="compare token by token; false: all tokens of an image as one vector"
    )

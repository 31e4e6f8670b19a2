"""Images that students learn from beside the photos of the run."""

from pydantic import BaseModel, Field

from storage.images import SourceConfig
from storage.images.synthetic import synthetic_source


class SupportConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Further images to learn from: what the teacher says of things that the data does not show."""

    synthetic: int = Field(
        1000,
        ge=0,
        le=10_000_000,
        description="drawn images: discs, squares and polygons that cover each other",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="another seed, other drawn images")
    photos: tuple[SourceConfig, ...] = Field(
        (), description="named sets of photos of anything; labels are not used"
    )

    def sources(self) -> tuple[SourceConfig, ...]:
        """Return all sets."""
        if not self.synthetic:
            return self.photos
        return (synthetic_source(self.synthetic, self.seed), *self.photos)

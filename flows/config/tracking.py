"""The section of a config that says where finished students are logged."""

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator


class TrackingConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Where finished students are logged; by default nothing is sent anywhere."""

    mlflow: str | None = Field(
        None,
        description="http:// or https:// address of an MLflow server, which gets parameters, "
        "metrics, curves and the export of every student; null: none",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="the experiment of MLflow that they are logged in; null: data.name",
    )

    @field_validator("mlflow")
    @classmethod
    def _an_address(cls, given: str | None) -> str | None:
        if given is None:
            return None
        try:
            parts = urlsplit(given)
        except ValueError as error:
            raise ValueError(f"it is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give the address of a server, such as http://127.0.0.1:5000")
        return given.rstrip("/")

    @property
    def has_password(self) -> bool:
        """Whether the address has a name or a password in it, which reports would show."""
        return self.mlflow is not None and "@" in urlsplit(self.mlflow).netloc

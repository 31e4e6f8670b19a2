"""Several machines: where the Ray cluster is, and what a task of it is given."""

from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, Field, model_validator

from tintem_core.errors import InputError


class ClusterConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Shards and students are tasks on a Ray cluster; their number at once follows from these."""

    address: str = Field(
        "local",
        description="local: this machine alone; host:port of a cluster that this machine is one "
        "of; ray://host:port of one seen from outside",
    )
    cpus_per_task: int = Field(
        1, ge=1, le=4_096, description="cores that a task is given, and uses"
    )
    gpus_per_task: float | None = Field(
        None,
        ge=0,
        le=1_024,
        description="GPUs that a task is given; null: one where the cluster has any",
    )
    shards_per_task: int = Field(
        8,
        ge=1,
        le=1_000_000,
        description="neighbouring shards that one task embeds; each is stored by itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _address_alone(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, str) else value


def require_ray() -> None:
    """Make sure that Ray is installed.

    Raises:
        InputError: if it is not.
    """
    if find_spec("ray") is None or find_spec("prefect_ray") is None:
        raise InputError(
            "runtime.cluster needs Ray, which is not installed: pip install 'tintem[ray]' (in "
            "this repository: pip install '.[ray]') on every machine, or set runtime.cluster to "
            "null."
        )

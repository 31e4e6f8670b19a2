"""What the service says of itself holds for requests that are drawn from it, wrong ones too."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks, positive_data_acceptance

from tests.exports import write_export
from tests.flows.serving.conftest import Running, Start

_QUICK, _SLOW = 20, 1000
_PATHS = ("/v1/embeddings", "/embed", "/v1/models", "/health", "/metrics")
load_all_checks()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, module_start: Start) -> Running:
    return module_start(str(write_export(tmp_path_factory.mktemp("root"), has_score=True)))


def holds(service: Running, path: str, mode: GenerationMode, draws: int) -> None:
    api = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    assert set(api) == set(_PATHS)
    (operation,) = api[path].values()

    @settings(max_examples=draws, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered(case: Case) -> None:
        # A string that the schema lets pass is seldom an image.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    answered()
    with service.client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", _PATHS)
def test_what_is_drawn_is_answered_as_described(service: Running, path: str) -> None:
    holds(service, path, GenerationMode.POSITIVE, _QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", _PATHS[:2])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_thousands_of_drawn_requests_are_answered_as_described(
    service: Running, path: str, mode: GenerationMode
) -> None:
    holds(service, path, mode, _SLOW)

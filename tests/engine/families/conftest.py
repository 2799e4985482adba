"""Cases that several files of tests look at."""

import pytest

from tests.engine.families.cases import CASES, FITTED, Case, make_case, make_fitted_case


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: make_case(name, tmp_path_factory.mktemp(name)) for name in CASES}


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: make_fitted_case(name, tmp_path_factory.mktemp("fitted_" + name)) for name in FITTED}

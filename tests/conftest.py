"""What several tests share."""
import contextlib
from collections import Counter
from pathlib import Path

import pytest
import torch

from streets import StreetSettings, ensure_streets
from tests import tried
from tests.released import write_released_files

with contextlib.suppress(ImportError):  # the tests that `make gpu` runs do without hypothesis
    from hypothesis import HealthCheck, settings

    # The same examples in every run, however fast the machine; the fixture `outcomes` counts over a test's examples.
    unchecked = [HealthCheck.function_scoped_fixture]
    settings.register_profile(
        "same", derandomize=True, deadline=None, print_blob=True, suppress_health_check=unchecked
    )
    settings.load_profile("same")


def pytest_addoption(parser):
    parser.addoption("--reliability", type=Path, help="document whose table of what was tried is to be made anew")


def pytest_configure(config):
    path = config.getoption("reliability")
    if path is not None and not hasattr(config, "workerinput"):  # the first process alone
        config.pluginmanager.register(tried.Table(path))


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Mark as hostile what is tried to break the program; property tests of numbers are not hostile.

    Coverage is that of the correctness tests: tracing doubles the time of the others.
    """
    for item in items:
        tried_mark = item.get_closest_marker("tried")
        if tried_mark is not None and tried_mark.args[0] != "Numbers":
            item.add_marker("hostile")
        if item.get_closest_marker("hostile") or item.get_closest_marker("slow"):
            item.add_marker("no_cover")
        if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call" or (call.when == "setup" and call.excinfo is not None):
        tried.note(item)


@pytest.fixture
def outcomes(request) -> Counter:
    """Cases of a test marked `tried`, by what happened; for a test that has more than one."""
    return request.node.stash.setdefault(tried.COUNTS, Counter())


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """One thread of torch a test, since tests run side by side; the same random numbers in every run."""
    torch.set_num_threads(1)
    torch.manual_seed(1)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path_factory, request):
    """A cache folder of the test's own, not there before it is used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{id(request.node)}"))


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """A tiny synthetic data set: 64 x 128, sequences of 6 frames."""
    settings = StreetSettings(height=64, width=128, train=3, val=2, length=6, seed=11)
    return ensure_streets(tmp_path_factory.mktemp("data") / "streets", settings, workers=1)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The released files, with known values in them."""
    return write_released_files(tmp_path_factory.mktemp("weights"))

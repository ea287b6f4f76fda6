"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Kernels then run in Triton's interpreter, which has to be asked for before Triton is imported;
    # transformers, below, imports it.
    os.environ["TRITON_INTERPRET"] = "1"
# It takes a fifth of the time of importing all that tests need; on again once they are collected
gc.disable()

from rqchat.engine.lean_import import import_transformers  # noqa: E402

import_transformers()  # as programs do, before the next one imports it whole

from tests.helpers import WebPages, build_tiny_model  # noqa: E402

# A busy machine must not fail a test, and a run that gates others must not depend on luck; people
# at their desks keep hypothesis's fresh examples.
settings.register_profile("desk", deadline=None)
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "desk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compile-all", action="store_true", help="compile every kernel, not what has changed"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, or one process ends long after the others."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """A collection of garbage costs half a second while it goes through all that was imported."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries say at exit what of theirs is left."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lines that tests recorded as `summary`; what they print is lost in another process."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "summary":
                terminalreporter.write_line(f"{report.nodeid}: {value}")


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """Background jobs of a shell ignore SIGINT, those of nohup SIGHUP, and so would children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_kept_at_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs that tests start keep documents and conversations in folders of theirs."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 4, as a hub model would lie there."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebPages]:
    """A web server on this machine; `web.pages["/a"] = (200, {...}, b"...")` sets what it says."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    pages = WebPages({})
    server = ThreadingHTTPServer(("127.0.0.1", 0), pages.handler())
    pages.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield pages
    server.shutdown()
    thread.join()
    server.server_close()

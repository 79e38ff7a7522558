"""What holds for every test: one thread, and caches of this session only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from genzoo.data import Dataset

# Before torch is imported: tiny networks are faster on one thread, and results then do not
# depend on the machine's number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Where a test asks for two threads while other tests run beside it, they sleep instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["MPLBACKEND"] = "agg"


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Feature extractors are trained afresh, once per session, and never in the user's cache."""
    path = tmp_path_factory.mktemp("cache")
    before = os.environ.get("GENZOO_CACHE")
    os.environ["GENZOO_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["GENZOO_CACHE"]
    else:
        os.environ["GENZOO_CACHE"] = before


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The data that genzoo ships with."""
    from genzoo.data import open_dataset

    return open_dataset("digits")


@dataclass(frozen=True)
class Said:
    """What a command line answered: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Genzoo = Callable[..., Said]


@pytest.fixture
def genzoo_says(capsys: pytest.CaptureFixture[str]) -> Genzoo:
    """Run ``genzoo WORD…`` in this process."""
    from genzoo_cli.main import main

    def run(*words: str | Path) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run

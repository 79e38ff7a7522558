"""What holds for every test: one thread, and caches of this session only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: tiny networks are faster on one thread, and results then do not
# depend on the machine's number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
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

from __future__ import annotations

import subprocess
import sys

import pytest

import genzoo


@pytest.mark.parametrize("name", genzoo.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(genzoo, name) is getattr(genzoo, name)
    assert name in dir(genzoo)


def test_names_are_where_they_are_said_to_be() -> None:
    assert set(genzoo._WHERE) == set(genzoo.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        genzoo.trane  # noqa: B018


def test_importing_genzoo_installs_the_hook_and_no_torch() -> None:
    code = (
        "import sys, genzoo\n"
        "assert 'torch' not in sys.modules\n"
        "assert any(type(f).__module__ == 'genzoo.compat' for f in sys.meta_path)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()

"""torchvision beside a torch that it was not compiled for, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# A torch with just the registry that is mended, and a torchvision that asks it as the real one.
FAKE_TORCH = """
    class _Names: pass
    class ops: torchvision = _Names()
    defined = []
    class library:
        class Library:
            def __init__(self, *args): assert args == ("torchvision", "FRAGMENT")
            def define(self, schema):
                defined.append(schema)
                setattr(ops.torchvision, schema.partition("(")[0], True)
"""
BROKEN = """
    import torch
    attempts = globals().get("attempts", 0) + 1
    from torchvision import part
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            raise RuntimeError(f"operator torchvision::{name} does not exist")
    whole = True
"""
PART = "import torch; torch.parts = getattr(torch, 'parts', 0) + 1"


def run(code: str, *roots: Path) -> str:
    """What `code` prints in a fresh process that finds packages in `roots` first."""
    path = os.pathsep.join([*map(str, roots), str(REPOSITORY), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fake(tmp_path: Path):
    """Writes a torch and a torchvision with the given body."""

    def write(torchvision: str) -> Path:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(textwrap.dedent(torchvision))
        (package / "part.py").write_text(PART)
        (tmp_path / "torch.py").write_text(textwrap.dedent(FAKE_TORCH))
        return tmp_path

    return write


def test_a_broken_torchvision_is_mended(fake):
    code = """
        from genzoo import compat
        compat.install(); compat.install()
        import sys, importlib.util
        assert 'torch' not in sys.modules and 'torchvision' not in sys.modules
        assert importlib.util.find_spec('torchvision').origin.endswith('__init__.py')
        import torchvision, torch
        import torchvision.part
        assert torchvision.whole and torchvision.attempts == 1, 'the second attempt is no fresh one'
        assert [s.partition('(')[0] for s in torch.defined] == ['nms', 'qnms']
        assert torch.parts == 2, 'the parts of the first attempt were kept'
        for loader in (torchvision.__loader__, torchvision.__spec__.loader):
            assert type(loader).__module__ != 'genzoo.compat'
        assert importlib.util.find_spec('torchvision') is torchvision.__spec__
        import importlib; importlib.reload(torchvision)
        print('mended')
    """
    assert run(code, fake(BROKEN)) == "mended\n"


def test_without_the_hook_it_is_broken(fake):
    code = """
        try: import torchvision
        except RuntimeError as error: print(error)
    """
    assert run(code, fake(BROKEN)) == "operator torchvision::nms does not exist\n"


def test_a_whole_torchvision_is_left_alone(fake):
    code = """
        from genzoo import compat
        compat.install()
        import torchvision, torch
        import torchvision.part
        print(torch.defined, torch.parts, type(torchvision.__loader__).__name__)
    """
    assert run(code, fake("from torchvision import part")) == "[] 1 SourceFileLoader\n"


def test_other_failures_are_passed_on(fake):
    code = """
        from genzoo import compat
        compat.install()
        import sys
        for _ in range(2):
            try: import torchvision
            except RuntimeError as error: print(error, 'torchvision' in sys.modules)
        import torch; print(torch.defined)
    """
    out = run(code, fake("import torch\nraise RuntimeError('something else')"))
    assert out == "something else False\nsomething else False\n[]\n"


def test_an_operator_that_cannot_be_mended_is_reported(fake):
    code = """
        from genzoo import compat
        compat.install()
        try: import torchvision
        except RuntimeError as error: print(error)
    """
    body = "import torch\nraise RuntimeError('operator torchvision::new does not exist')"
    assert run(code, fake(body)) == "operator torchvision::new does not exist\n"


def test_no_torchvision_at_all():
    code = """
        import sys
        sys.path[:] = [p for p in sys.path if 'site-packages' not in p]
        from genzoo import compat
        compat.install()
        import importlib.util
        assert importlib.util.find_spec('torchvision') is None
        try: import torchvision
        except ModuleNotFoundError as error: print(error)
    """
    assert run(code) == "No module named 'torchvision'\n"


def test_importing_genzoo_installs_the_hook_without_torch():
    code = """
        import sys, genzoo, genzoo.compat
        genzoo.compat.install()
        hooks = [f for f in sys.meta_path if type(f).__module__ == 'genzoo.compat']
        print('torch' in sys.modules, len(hooks))
    """
    assert run(code) == "False 1\n"


def test_the_real_torchvision_can_be_used():
    code = """
        from genzoo import compat
        compat.install()
        import torch, torchvision
        from torchvision.transforms import v2
        assert v2.functional.horizontal_flip(torch.arange(3)[None, None]).tolist() == [[[2, 1, 0]]]
        net = torchvision.models.resnet18(num_classes=3).eval()
        print(tuple(net(torch.zeros(1, 3, 32, 32)).shape), torchvision.datasets.MNIST.__name__)
    """
    assert run(code) == "(1, 3) MNIST\n"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_loader_workers(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import genzoo.compat
        genzoo.compat.install()
        import torch
        from torchvision import datasets

        if __name__ == "__main__":
            data = datasets.FakeData(8, (3, 4, 4), transform=__import__(
                "torchvision").transforms.ToTensor())
            loader = torch.utils.data.DataLoader(
                data, 4, num_workers=1, multiprocessing_context="{method}")
            print([tuple(x.shape) for x, y in loader])
    """)
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[(4, 3, 4, 4), (4, 3, 4, 4)]\n", done.stderr

"""The files that ``shards:PATTERN`` and ``hf:NAME`` stand for, and what each is for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genzoo.data import STREAMED
from genzoo.data.images import data_root
from genzoo.errors import InputError, MachineError

SHARDS, HUB = STREAMED
TEST_WORDS = ("test",)
VALIDATION_WORDS = ("val", "valid", "validation", "dev")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}")


class Files(NamedTuple):
    """Where pictures are.

    Attributes:
        name: of the data, by which they are opened again.
        paths: of the files, in the order of their names.
    """

    name: str
    paths: tuple[Path, ...]


def find_files(name: str, root: str | Path | None = None, download: bool = True) -> Files:
    """The files that a name stands for.

    Raises:
        InputError: there are none.
        MachineError: they cannot be fetched.
    """
    if name.startswith(SHARDS):
        pattern = name[len(SHARDS) :]
        paths = _matching(pattern, ".tar", "shards")
        return Files(f"{SHARDS}{_absolute(pattern)}", paths)
    pattern = name[len(HUB) :]
    here = Path(pattern).expanduser()
    if here.exists() or glob.has_magic(pattern) or pattern.endswith(".parquet"):
        return Files(f"{HUB}{_absolute(pattern)}", _matching(pattern, ".parquet", "hf"))
    return Files(name, _from_hub(pattern, data_root(root) / "huggingface", download))


def _matching(pattern: str, suffix: str, kind: str) -> tuple[Path, ...]:
    """The files of a folder, of a pattern with ``*``, ``?``, ``[]``, ``{a,b}`` or ``{00..99}``."""
    if not pattern:
        raise InputError(f"{kind}: has no path; write {kind}:PATTERN, for example '*{suffix}'")
    found: set[str] = set()
    for part in _braced(os.path.expanduser(pattern)):
        if os.path.isdir(part):
            part = os.path.join(glob.escape(part), "**", f"*{suffix}")
        matches = glob.glob(part, recursive=True)
        if "{" in pattern and not matches:
            raise InputError(f"{kind}:{pattern}: there is no '{part}'")
        found.update(os.path.abspath(match) for match in matches if os.path.isfile(match))
    if not found:
        raise InputError(
            f"{kind}:{pattern}: no file matches; put the pattern into quotes, and begin it with / "
            f"or where you are, {os.getcwd()}"
        )
    return tuple(map(Path, sorted(found)))


def _braced(pattern: str) -> list[str]:
    """Braces written out, as WebDataset does it."""
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise InputError(
            f"{pattern}: braces need a package; pip install 'genzoo[stream]', or write * instead"
        ) from None
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}") from error


def _absolute(pattern: str) -> str:
    return os.path.abspath(os.path.expanduser(pattern))


def _from_hub(name: str, folder: Path, download: bool) -> tuple[Path, ...]:
    """The parquet files of a data set of the Hugging Face Hub, fetched where they are missing."""
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"hf:{name}: neither a path nor a name such as owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise InputError(
            f"hf:{name}: there is no such file, and fetching data needs packages; "
            "pip install 'genzoo[stream]'"
        ) from None
    owner, config = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    # Where the owner gave no parquet, the Hub makes some in a branch of its own.
    for revision in (None, "refs/convert/parquet"):
        try:
            where = snapshot_download(
                owner,
                repo_type="dataset",
                revision=revision,
                allow_patterns=["*.parquet"],
                cache_dir=folder,
                local_files_only=not download,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise MachineError(
                f"hf:{name}: cannot be fetched ({reason:.160}); place its parquet files in a "
                "folder and give that: hf:FOLDER"
            ) from error
        found = sorted(Path(where).rglob("*.parquet"))
        if found:
            return _of_config(name, Path(where), found, config)
    raise InputError(f"hf:{name}: has no parquet files")


def _of_config(name: str, where: Path, found: list[Path], config: str) -> tuple[Path, ...]:
    """The files of one configuration: folders that are neither ``data`` nor a split's."""
    configs: dict[str, list[Path]] = {}
    for path in found:
        folders = path.relative_to(where).parts[:-1]
        own = [part for part in folders if part != "data" and not _purpose(part)]
        configs.setdefault("/".join(own), []).append(path)
    if config in configs:
        return tuple(configs[config])
    if not config and len(configs) == 1:
        return tuple(next(iter(configs.values())))
    known = ", ".join(f"hf:{name.rsplit('/', 1)[0] if config else name}/{c}" for c in configs if c)
    raise InputError(f"hf:{name}: write one of its configurations: {known}")


def by_purpose(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files to train on, and files that are held out; none of these where no name tells."""
    purposes = [_purpose(path.name) or _purpose(path.parent.name) for path in paths]
    train = tuple(p for p, what in zip(paths, purposes, strict=True) if what in ("", "train"))
    for wanted in ("test", "validation"):
        held = tuple(p for p, what in zip(paths, purposes, strict=True) if what == wanted)
        if held and train:
            return train, held
    return tuple(paths), ()


def _purpose(name: str) -> str:
    """``train``, ``test``, ``validation`` or nothing, by the words in a name."""
    words = re.split(r"[^a-z]+", name.lower())
    known = {
        "train": "train",
        **dict.fromkeys(TEST_WORDS, "test"),
        **dict.fromkeys(VALIDATION_WORDS, "validation"),
    }
    return next((known[word] for word in words if word in known), "")

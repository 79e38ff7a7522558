"""The page that a run folder shows of itself: what it is, what it scored, how to load it.

Its head is the metadata that model hubs read, so that a folder can be pushed as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from genzoo.evaluation.catalogue import METRICS
from genzoo.registry import is_file_model
from genzoo.runs import SAMPLES_PICTURE, Run, write_bytes

CARD = "README.md"


def write_card(run: Run) -> None:
    """Write the run's ``README.md`` from its other files.

    Raises:
        InputError: there is no permission.
        MachineError: the disk is full.
    """
    write_bytes(run.path / CARD, card(run).encode())


def card(run: Run) -> str:
    """Markdown; texts that came from outside are shown as code."""
    name, data = _bare(run.model), _bare(run.config["data"]["name"])
    head = {
        "library_name": "genzoo",
        "tags": ["generative-model", str(run.config["family"]), "genzoo"],
        "datasets": [data],
    }
    picture = f"\n![samples]({SAMPLES_PICTURE})\n" if (run.path / SAMPLES_PICTURE).exists() else ""
    # JSON is YAML, and quotes whatever a name may hold
    return (
        f"---\n{json.dumps(head, indent=1)}\n---\n\n"
        f"# {_code(name)} on {_code(data)}\n{picture}\n"
        f"{_table(('', ''), _facts(run))}\n\n## Scores\n\n{_scores(run)}\n\n"
        f"## Use\n\n```python\nimport genzoo\n\n{_use(run)}```\n"
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    config, status = run.config, run.status
    settings = ", ".join(f"{key}={value}" for key, value in config["settings"].items())
    start = config.get("init")
    data, size = config["data"], f"{status['parameters']:,} parameters"
    facts = [
        ("model", f"{_code(_bare(run.model))} ({config['family']}), {size}"),
        ("settings", _code(settings) if settings else "none"),
        ("data", f"{_code(_bare(data['name']))}, items of shape {data['spec']['shape']}"),
        ("data's SHA-256", _code(data["fingerprint"])),
        ("labels", "shown to the model" if config["conditional"] else "not shown"),
        ("budget", f"{_code(config['budget'])}, of which {status['progress']:.0%} are used"),
        ("spent", f"{status['seconds']:,.1f} s, {status['images']:,} items, {_flops(status)}"),
        ("seed, threads, device", f"{config['seed']}, {config['threads']}, {config['device']}"),
        ("genzoo", _code(config["genzoo"])),
    ]
    if start:
        cost = f"{start['seconds']:,.1f} s" if start.get("seconds") is not None else "unknown"
        told = f"{_code(_bare(start['run']))}, whose training took {cost} more"
        facts.append(("started from", told))
    return facts


def _flops(status: Mapping[str, Any]) -> str:
    flops = status["flops"]
    return "FLOPs unmeasured" if flops is None else f"{flops:.3g} FLOPs"


def _scores(run: Run) -> str:
    scores = run.scores()
    if scores is None:
        return "Not evaluated."
    rows = []
    for name, score in scores["metrics"].items():
        if score.get("value") is None:
            continue
        low, high, floor = (score.get(key) for key in ("low", "high", "floor"))
        known = METRICS.get(name)
        interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else "–"
        title = known.title if known else _code(name)
        rows.append(
            (title, f"{score['value']:.4g}", interval, "–" if floor is None else f"{floor:.4g}")
        )
    told = (
        f"{scores['n']:,} samples against as many held-out items. The floor is what real data "
        "score; intervals are of sampling, with this one training held fixed."
    )
    return f"{told}\n\n{_table(('metric', 'value', '95 % interval', 'floor'), rows)}"


def _use(run: Run) -> str:
    own = is_file_model(run.model) or run.model.startswith("class:")
    model = ", model=YourClass" if own else ""
    return (
        f'model = genzoo.load_model("."{model})  # this folder\n'
        f'genzoo.sample("."{model}, n=64, out="grid.png")\n'
    )


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _bare(name: object) -> str:
    """The end of a name that may be a path: where things lay is nobody else's business."""
    return str(name).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _code(value: object) -> str:
    """A text as a code span, without what would end the span, its cell or its line."""
    shown = "".join(c if c.isprintable() and c not in "`|" else " " for c in str(value))
    return f"`{shown}`" if shown.strip() else "–"

"""``genzoo models``: what can be trained, and with which settings."""

from __future__ import annotations

import dataclasses

import click

from genzoo_cli.console import Answer, Command, table


@click.command(
    "models",
    cls=Command,
    short_help="List the models, or the settings of one.",
    examples=(
        "genzoo models",
        "genzoo models diffusion",
        "genzoo models --json",
    ),
)
@click.argument("name", required=False)
def command(name: str | None) -> Answer:
    """List the models, or the settings of one."""
    return _all() if name is None else _one(name)


def _all() -> Answer:
    from genzoo.registry import installed_models

    entries = list(installed_models().values())
    rows = [(entry.name, entry.family, entry.summary) for entry in entries]
    more = "\n\nSettings of one: genzoo models NAME. Your own: --model FILE.py:Class."
    return Answer(
        {"models": [dataclasses.asdict(entry) for entry in entries]},
        table(("model", "family", "what it is"), rows, right=False) + more,
    )


def _one(name: str) -> Answer:
    from genzoo.registry import PRESETS, describe_settings, load_class, resolve

    entry, cls = resolve(name), load_class(name)
    settings = describe_settings(cls.Settings)
    rows = [(s.name, s.type, str(s.default), s.meaning) for s in settings]
    heading = ("--set", "type", "default", "meaning")
    listed = table(heading, rows, right=False) if rows else "No settings."
    sizes = [
        f"--preset {preset} ({PRESETS[preset]}): "
        + ", ".join(f"{key}={value}" for key, value in changed.items())
        for preset, changed in cls.presets.items()
    ]
    told = {
        **dataclasses.asdict(entry),
        "settings": [dataclasses.asdict(s) for s in settings],
        "presets": {preset: dict(changed) for preset, changed in cls.presets.items()},
    }
    return Answer(told, "\n\n".join([f"{entry.name}: {entry.summary}", listed, *sizes]))

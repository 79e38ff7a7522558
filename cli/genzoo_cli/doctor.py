"""``genzoo doctor``: what this machine has, what is missing and how to get it."""

from __future__ import annotations

import click

from genzoo_cli.console import Answer, Command, table


@click.command(
    "doctor",
    cls=Command,
    short_help="Say what is missing here, and how to get it.",
    examples=(
        "genzoo doctor",
        "genzoo doctor --json",
    ),
)
def command() -> Answer:
    """Say what genzoo finds on this machine, what is missing and how to get it."""
    from genzoo.doctor import examine

    diagnosis = examine()
    rows = [(finding.state, finding.name, finding.detail) for finding in diagnosis.findings]
    remedies = [f"{f.name}: {f.remedy}" for f in diagnosis.findings if f.remedy]
    text = table(("", "what", "found"), rows, right=False)
    if remedies:
        text += "\n\n" + "\n".join(remedies)
    return Answer(diagnosis.to_dict(), text, diagnosis.failure)

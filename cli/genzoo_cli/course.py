"""``genzoo course``: assignments, from the first copy to the zip that is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from genzoo.errors import GenzooError, PartialFailure, unknown
from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session, table, write_examples

EXAMPLES = (
    "genzoo course new week3 --assignment flow",
    "genzoo course check week3/student",
    "genzoo course figures week3/student",
    "genzoo course pack week3/student",
    "genzoo course validate week3",
    "genzoo course grade hand-ins/*.zip --bundle week3/instructor --out grades",
    "genzoo course leaderboard hand-ins/*.zip --bundle week3/instructor --out board",
    "genzoo course similarity hand-ins/*.zip --bundle week3/instructor",
)


class Course(click.Group):
    """The commands of a course, in the order in which they are used."""

    examples: Sequence[str] = EXAMPLES

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        write_examples(formatter, self.examples)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or the one that was probably meant."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("command", f"course {args[0]}", [f"course {c}" for c in self.commands])
        return super().resolve_command(ctx, args)


@click.group("course", cls=Course, short_help="Assignments: write them, work on them, grade them.")
def command() -> None:
    """Assignments on generative models: write them, work on them, hand them in, grade them.

    Seven assignments on small data, each with a story, blanks of a few lines, checks that tell the
    cause, and figures for a report: vae, flow, gan, diffusion, flow-matching, autoregressive,
    compare.
    """


_folder: options.Decorator = click.argument(
    "folder", type=options.FILE, default=".", metavar="[DIR]"
)
_submissions: options.Decorator = click.argument(
    "submissions", nargs=-1, required=True, type=options.FILE, metavar="SUBMISSION…"
)
_bundle: options.Decorator = click.option(
    "--bundle", type=options.FILE, required=True, metavar="DIR", help="The instructor's folder."
)
_jobs: options.Decorator = click.option(
    "--jobs",
    type=options.COUNT,
    default=1,
    show_default=True,
    metavar="N",
    help="Hand-ins at a time; each takes a core and 300 MB.",
)
_unsafe: options.Decorator = click.option(
    "--unsafe-no-sandbox",
    "unsafe",
    is_flag=True,
    help="Run untrusted code with your own rights; every result says so.",
)


@command.command(
    "new",
    cls=Command,
    short_help="Write an assignment for students and for instructors.",
    examples=(
        "genzoo course new week3 --assignment flow",
        "genzoo course new week4 --assignment diffusion --variant 2027 --notebook",
    ),
)
@click.argument("folder", type=options.FILE, metavar="DIR")
@click.option(
    "--assignment",
    required=True,
    metavar="NAME",
    help="vae, flow, gan, diffusion, flow-matching, autoregressive or compare.",
)
@click.option(
    "--variant",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="SEED",
    help="Other data, schedules and parametrizations for another year; 0 is the textbook's.",
)
@click.option("--notebook", is_flag=True, help="Add a notebook that writes and checks the file.")
def new(folder: Path, assignment: str, variant: int, notebook: bool) -> Answer:
    """Write DIR/student to give out, and DIR/instructor with the solution."""
    from genzoo import course

    student = course.new(folder, assignment, variant=variant, notebook=notebook)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [
        f"{student}: to give out; begin with README.md",
        f"{folder / 'instructor'}: solution, mutants, rubric, guide",
        f"next: genzoo course check {student}",
    ]
    return Answer({"student": str(student), "files": files}, "\n".join(lines))


@command.command(
    "check",
    cls=Command,
    short_help="What holds in your work, what does not, and where to look.",
    examples=("genzoo course check", "genzoo course check week3/student --json"),
)
@_folder
@options.pass_session
def check(session: Session, folder: Path) -> Answer:
    """Run every check on submission/model.py, which is executed, in teaching order.

    Takes seconds, needs no network, and says nothing on stderr.
    """
    from genzoo import course

    say = None if session.json or session.quiet else click.echo
    found = course.check(folder, say=say)
    # All but the end was said as it came.
    text = "" if say else found.summary()
    # Not a failure that is said on stderr: graders of notebooks would take a line there for one.
    return Answer(found.to_dict(), text, code=0 if found.complete else PartialFailure.exit_code)


@command.command(
    "figures",
    cls=Command,
    short_help="Train your model and draw what the report asks for.",
    examples=(
        "genzoo course figures",
        "genzoo course figures week3/student --fresh",
        "genzoo course figures --data mnist --data-root data --device cuda",
    ),
)
@_folder
@click.option("--fresh", is_flag=True, help="Train again, even if the file has not changed.")
@click.option(
    "--data", metavar="NAME", help="Harder data of this assignment, for a section of their own."
)
@click.option("--data-root", type=options.FILE, metavar="DIR", help="Where downloaded data lie.")
@click.option("--steps", type=options.COUNT, metavar="N", help="Of training.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Of training.")
@options.pass_session
def figures(
    session: Session,
    folder: Path,
    fresh: bool,
    data: str | None,
    data_root: Path | None,
    steps: int | None,
    device: str,
) -> Answer:
    """Train submission/model.py, which is executed; write figures/ and the report's card."""
    from genzoo import course

    numbers = course.figures(
        folder, fresh=fresh, data=data, data_root=data_root, steps=steps, device=device,
        progress=session.progress,
    )  # fmt: skip
    lines = [f"{name}: {value}" for name, value in numbers.items()]
    return Answer(numbers, "\n".join([*lines, "written to figures/ and report.md"]))


@command.command(
    "pack",
    cls=Command,
    short_help="The zip to hand in, and what is still missing.",
    examples=("genzoo course pack", "genzoo course pack week3/student --out me.zip"),
)
@_folder
@click.option("--out", type=options.FILE, metavar="FILE", help="The zip.  [default: in DIR]")
def pack(folder: Path, out: Path | None) -> Answer:
    """Pack the files that may be handed in. Nothing is executed."""
    from genzoo import course

    found = course.pack(folder, out)
    payload = {
        "zip": str(found.path),
        "files": list(found.files),
        "left_out": list(found.left_out),
        "missing": list(found.missing),
    }
    return Answer(payload, str(found))


@command.command(
    "validate",
    cls=Command,
    short_help="Test an assignment by its own solution, starter and mutants.",
    examples=("genzoo course validate week3", "genzoo course validate week3 --seeds 20"),
)
@_folder
@click.option(
    "--seeds",
    type=options.COUNT,
    default=2,
    show_default=True,
    metavar="N",
    help="Random inputs for the solution, each with one and with two threads.",
)
@options.pass_session
def validate(session: Session, folder: Path, seeds: int) -> Answer:
    """Show that the solution passes, the starter fails, and every mutant fails its own check.

    The same by points, where a sandbox works: all, none, and all but its own. The files of
    DIR/instructor are executed.
    """
    from genzoo import course

    found = course.validate(folder, seeds=seeds, progress=session.progress)
    lines = [f"{e.what}: NOT SO: {e.detail}" for e in found.failed]
    met = len(found.expectations) - len(found.failed)
    lines.append(f"{met} of {len(found.expectations)} expectations met")
    failure: GenzooError | None = None
    if found.failed:
        failure = PartialFailure(f"{len(found.failed)} expectations are not met")
    return Answer(found.to_dict(), "\n".join(lines), failure)


@command.command(
    "grade",
    cls=Command,
    short_help="Points for hand-ins, by random challenges in a sandbox.",
    examples=(
        "genzoo course grade hand-ins/*.zip --bundle week3/instructor --out grades",
        "genzoo course grade ada/ --bundle week3/instructor --out grades --seed 7",
    ),
)
@_submissions
@_bundle
@click.option(
    "--out", type=options.FILE, required=True, metavar="DIR", help="For results and grades.csv."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of the challenges.  [default: that of --out, or a random one]",
)
@_jobs
@click.option(
    "--form",
    metavar="NAME",
    help="For one hand-in: also write --results in the form of gradescope or prairielearn.",
)
@click.option("--results", type=options.FILE, metavar="FILE", help="Where --form is written.")
@_unsafe
@options.pass_session
def grade(
    session: Session,
    submissions: tuple[Path, ...],
    bundle: Path,
    out: Path,
    seed: int | None,
    jobs: int,
    form: str | None,
    results: Path | None,
    unsafe: bool,
) -> Answer:
    """Grade folders and zips. Each runs in a sandbox that was probed before (Linux).

    Points are for right answers to inputs that are drawn at grading time. Questions of the report
    are graded by a person: grades.csv has empty columns for that, and keeps what is entered there.
    What is graded is not graded again: the same call goes on where it was stopped.
    """
    from genzoo.course.grading.grade import grade as run

    found = run(
        submissions, bundle, out, seed=seed, jobs=jobs, sandbox=not unsafe, form=form,
        results=results, progress=session.progress,
    )  # fmt: skip
    head = ["student", *(test.name for test in found[0].tests), "automatic points"]
    rows = [[g.student, *(f"{test.score:g}" for test in g.tests), f"{g.score:g}"] for g in found]
    payload = {"results": [g.to_dict() for g in found]}
    return Answer(payload, f"{table(head, rows)}\n\n{out / 'grades.csv'}")


@command.command(
    "bundle",
    cls=Command,
    short_help="The zip to upload to a system that grades.",
    examples=(
        "genzoo course bundle week3/instructor --lms gradescope",
        "genzoo course bundle week3/instructor --lms prairielearn --out week3.zip",
    ),
)
@click.argument("folder", type=options.FILE, metavar="DIR")
@click.option(
    "--lms",
    required=True,
    metavar="NAME",
    help="gradescope or prairielearn; otter and nbgrader, which cannot be trusted as much.",
)
@click.option("--out", type=options.FILE, metavar="FILE", help="The zip.  [default: beside DIR]")
def bundle(folder: Path, lms: str, out: Path | None) -> Answer:
    """Pack what an instructor uploads: the grader, its hidden tests, and how to start them.

    DIR is the instructor's folder. The solution is not in it. Gradescope and PrairieLearn start the
    grader, which puts the hand-in into a sandbox; otter and nbgrader run where the hand-in has run.
    """
    from genzoo.course.grading.bundle import bundle as run

    path = run(folder, lms, out)
    return Answer({"zip": str(path)}, f"{path}: to upload to {lms}")


@command.command(
    "leaderboard",
    cls=Command,
    short_help="Rank hand-ins by samples that are drawn again in the sandbox.",
    examples=(
        "genzoo course leaderboard hand-ins/*.zip --bundle week3/instructor --out board",
        "genzoo course leaderboard zips/*.zip --bundle week3/instructor --out board --anonymous",
        "genzoo course leaderboard ada/ --bundle week3/instructor --out board --form gradescope "
        "--results results.json",
    ),
)
@_submissions
@_bundle
@click.option(
    "--out", type=options.FILE, required=True, metavar="DIR", help="For leaderboard.html and .json."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of data and trainings; keep it secret.  [default: that of --out, or a random one]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    metavar="N",
    help="Trainings of each model, each with data and a seed of its own.",
)
@_jobs
@click.option("--anonymous", is_flag=True, help="Show numbers in the place of names.")
@click.option(
    "--form", metavar="NAME", help="For one hand-in: add its line to --results, for gradescope."
)
@click.option("--results", type=options.FILE, metavar="FILE", help="What --form adds to.")
@_unsafe
@options.pass_session
def leaderboard(
    session: Session,
    submissions: tuple[Path, ...],
    bundle: Path,
    out: Path,
    seed: int | None,
    rounds: int,
    jobs: int,
    anonymous: bool,
    form: str | None,
    results: Path | None,
    unsafe: bool,
) -> Answer:
    """Rank folders and zips of vae, flow, gan or flow-matching by their models' samples.

    Every model is trained on the same fresh data in the sandbox, and its samples are compared with
    other fresh data: 0 as real data, 1 as one fitted Gaussian. Copies of data are listed and not
    ranked; who is within a standard error shares a rank. The same call goes on where it was
    stopped.
    """
    from genzoo.course.grading.leaderboard import leaderboard as run

    found = run(
        submissions, bundle, out, seed=seed, rounds=rounds, jobs=jobs, anonymous=anonymous,
        sandbox=not unsafe, form=form, results=results, progress=session.progress,
    )  # fmt: skip
    rows = [
        [e.student, *([e.name] if anonymous else []), str(e.rank or ""), e.shown] for e in found
    ]
    head = ["student", *(["shown as"] if anonymous else []), "rank", "distance"]
    told = [{"student": e.student, **e.to_dict(), "detail": e.detail} for e in found]
    return Answer({"entries": told}, f"{table(head, rows)}\n\n{out / 'leaderboard.html'}")


@command.command(
    "similarity",
    cls=Command,
    short_help="Hand-ins that are worth reading side by side.",
    examples=(
        "genzoo course similarity hand-ins/*.zip --bundle week3/instructor",
        "genzoo course similarity hand-ins/*.zip --bundle week3/instructor --out alike.html",
    ),
)
@_submissions
@_bundle
@click.option(
    "--out", type=options.FILE, metavar="FILE", help="A report as .html, with the lines, or .json."
)
@click.option(
    "--pairs",
    type=options.COUNT,
    default=50,
    show_default=True,
    metavar="N",
    help="How many to report, the most alike first.",
)
def similarity(submissions: tuple[Path, ...], bundle: Path, out: Path | None, pairs: int) -> Answer:
    """Compare folders and zips with each other, the library's models, and the solution.

    By what was written in the blanks, whatever the names. Nothing is executed. What most of the
    class shares, and the solution, is left out. Short right answers look alike: a number is a
    reason to look, and no proof.
    """
    from genzoo.course.similarity import similarity as run

    found = run(submissions, bundle, out, pairs=pairs)
    rows = [
        [p.left, p.right, f"{p.containment:.0%}", f"{p.jaccard:.0%}", str(p.shared)]
        for p in found.pairs
    ]
    head = ["hand-in", "beside", "contained", "of both", "fingerprints"]
    lines = [table(head, rows) if rows else "no two share anything that is not everybody's"]
    lines += [f"{name}: {note}" for name, note in found.notes.items()]
    lines.append("Short right answers look alike: a reason to look, and no proof.")
    return Answer(found.to_dict(), "\n".join([*lines, *([str(out)] if out else [])]))

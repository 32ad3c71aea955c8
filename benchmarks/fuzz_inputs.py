"""Fuzzing of user input: every invalid input must be refused in one line or give the right result.

Usage: ``python benchmarks/fuzz_inputs.py --out FOLDER [--only files,images,layouts,options] [--limit N] [--jobs 1]``.
Damages every file of a run, a refinement, a sweep and an export in five ways and reads it with later commands; reads
one picture in thirty file formats, and thirty folder layouts; passes ten unusual values to every option of every
command. Each command runs in a forked process, which is killed after 20 s; if only its checks are tested, the work
after them is skipped. Violations are tracebacks, refusals of more than one line, hangs, warnings of libraries,
silently different results, and remedies that do not work. Prints a table of counts and all violations, also written to
``FOLDER/findings.csv``; exits with status 1 if there are any.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from fuzzing.files import file_cases
from fuzzing.harness import HANG_SECONDS, Case, Finding, Said, check, in_one_process, violation
from fuzzing.images import image_cases
from fuzzing.layouts import layout_cases
from fuzzing.material import make_material
from fuzzing.options import option_cases

from apq_tune.cli.ending import one_line_errors

T = TypeVar("T")

KINDS = ("files", "images", "layouts", "options")
ALONE_SECONDS = 120
ALONE = 8
"""Number of cases that are repeated without a fork and must end with the same status and message."""


def main() -> None:
    """Create the material, run the cases and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder for all files.")
    parser.add_argument("--only", default=",".join(KINDS), help="Kinds of inputs.  [default: %(default)s]")
    parser.add_argument("--limit", type=int, help="Maximum number of cases of each kind, evenly spaced.")
    parser.add_argument("--match", default="", help="Run only cases whose name matches this regular expression.")
    parser.add_argument("--jobs", type=int, default=1, help="Number of concurrent commands.  [default: %(default)s]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=HANG_SECONDS,
        help="Seconds after which a command counts as a hang; increase on a busy machine.",
    )
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--only {arguments.only}: unknown {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    out = arguments.out.absolute()
    in_one_process()
    own = make_material(out / "material")
    made = {
        "files": lambda: file_cases(own, out / "files"),
        "images": lambda: image_cases(out / "images"),
        "layouts": lambda: layout_cases(out / "layouts"),
        "options": lambda: option_cases(own, out),
    }
    findings: list[Finding] = []
    for kind in kinds:
        cases = spread([c for c in made[kind]() if re.search(arguments.match, c.name)], arguments.limit)
        jobs = 1 if kind == "options" else arguments.jobs  # cases of options share a folder
        findings += told(check(cases, jobs, arguments.seconds), len(cases))
    alone = list(repeated_alone(spread([f for f in findings if not f.case.whole], ALONE)))
    summary(findings, kinds)
    for line in alone:
        print(f"VIOLATION forked and unforked commands differ: {line}")
    write(findings, out / "findings.csv")
    sys.exit(bool(alone or any(finding.violation for finding in findings)))


def spread(items: Sequence[T], n: int | None) -> list[T]:
    """Select at most ``limit`` evenly spaced cases."""
    if n is None or n >= len(items):
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


def told(found: Iterator[Finding], total: int) -> Iterator[Finding]:
    """Print a violation as soon as it is found."""
    for number, finding in enumerate(found, start=1):
        if finding.violation:
            print(f"[{finding.case.kind} {number}/{total}] {finding.case.name}: {finding.violation}", flush=True)
        yield finding


def repeated_alone(findings: Sequence[Finding]) -> Iterator[str]:
    """Differences between refusals of forked commands and of the installed command."""
    program = str(Path(sys.executable).with_name("apq-tune"))
    for case, said, _ in findings:
        if said.status not in (1, 2) or any("\0" in word for word in case.arguments):
            continue
        case.prepare()
        start = time.monotonic()
        try:
            done = subprocess.run(
                [program, *case.arguments],
                cwd=case.folder,
                capture_output=True,
                text=True,
                check=False,
                errors="replace",
                timeout=ALONE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            yield f"{case.name}: {said.status} {said.reason!r}, alone it goes on for more than {ALONE_SECONDS} s"
            continue
        again = Said(done.returncode, done.stdout, done.stderr, time.monotonic() - start)
        if (again.status, again.reason) != (said.status, said.reason) or violation(again):
            yield f"{case.name}: {said.status} {said.reason!r}, alone {again.status} {again.reason!r}"


def summary(findings: Sequence[Finding], kinds: Sequence[str]) -> None:
    """Print counts by kind, then every violation with its command."""
    print(f"\n{'kind':10}{'cases':>8}{'right':>8}{'refused':>9}{'violations':>12}{'hangs':>7}{'slowest':>9}")
    for kind in kinds:
        own = [f for f in findings if f.case.kind == kind]
        good = [f for f in own if not f.violation]
        counts = (len(own), sum(f.said.status == 0 for f in good), sum(f.said.status != 0 for f in good))
        slowest = max((f.said.seconds for f in own), default=0.0)
        wrong, hangs = len(own) - len(good), sum(f.said.hangs for f in own)
        print(f"{kind:10}{counts[0]:8}{counts[1]:8}{counts[2]:9}{wrong:12}{hangs:7}{slowest:7.1f} s")
    for case, _, wrong_with in findings:
        if wrong_with:
            print(f"\nVIOLATION {case.kind}: {case.name}\n  {wrong_with}\n  apq-tune {command(case)}")


def command(case: Case) -> str:
    """Shell command of a case in printable characters."""
    return ascii(shlex.join(word if len(word) < 120 else f"{word[:100]}..." for word in case.arguments))[1:-1]


def write(findings: Sequence[Finding], path: Path) -> None:
    """Write the findings to a CSV file, one row per case."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(("kind", "case", "status", "seconds", "stderr_lines", "line", "violation"))
        for case, said, wrong in findings:
            lines = len(said.err.splitlines())
            rows.writerow((case.kind, case.name, said.status, f"{said.seconds:.2f}", lines, said.reason, wrong))


if __name__ == "__main__":
    with one_line_errors():
        main()

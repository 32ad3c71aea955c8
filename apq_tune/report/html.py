"""The report as one HTML page, with everything in it: no file and no address is needed to read it."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from apq_tune.store.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

    from apq_tune.report.page.facts import ReportFacts

PAGE = "report.html"
"""The page, in the directory of the results."""


def write_report(path: str | Path) -> tuple[str, ...]:
    """Write the report of a finished run, refinement or method into its directory, and the files beside it.

    Args:
        path: Directory of the results.

    Returns:
        Names of the files that were written.

    Raises:
        RunError: If the results are not finished or damaged, or a file cannot be written.
    """
    from apq_tune.hosts.evaluated import journal_of
    from apq_tune.report.page.listing import FILE, STUDY
    from apq_tune.report.page.read import read_facts
    from apq_tune.report.page.studies import studies_of

    path = Path(path)
    facts = read_facts(path)
    write_atomically(path / PAGE, page_of(facts))
    write_atomically(path / FILE, facts.evaluated.to_csv(index=False))
    write_atomically(path / STUDY, journal_of(facts.space, studies_of(facts)))
    return PAGE, FILE, STUDY


def add_page(path: Path, console: Console) -> None:
    """Write the report at the end of a command whose results are on disk already: whatever fails here costs nothing.

    Args:
        path: Directory of the results.
        console: Console to print on.
    """
    try:
        names = write_report(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        console.print(
            f"The report could not be written ({reason}); the results are complete. Try again with: "
            f"apq-tune report {path}",
            soft_wrap=True,
            markup=False,
        )
        return
    console.print(f"Report: {path / names[0]} (also {', '.join(names[1:])})", soft_wrap=True, markup=False)


def page_of(facts: ReportFacts) -> str:
    """The page as text."""
    from apq_tune.report.page.bounds import bars
    from apq_tune.report.page.evidence import evidence_of
    from apq_tune.report.page.listing import listing_of
    from apq_tune.report.page.picks import picks
    from apq_tune.report.page.plot import LEGEND, SHAPES, agreement, panels
    from apq_tune.report.page.rules import rules_of
    from apq_tune.report.page.strip import strip_of
    from apq_tune.report.page.verdict import verdict_of

    about, limits = bars(facts)
    found, note = picks(facts)
    templates = _templates()
    script = templates.get_template("script.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    content: dict[str, Any] = {
        "facts": facts,
        "script": script,
        "script_digest": digest,
        "verdict": verdict_of(facts),
        "about": about,
        "bars": limits,
        "panels": panels(facts),
        "legend": LEGEND,
        "shapes": SHAPES,
        "picks": found,
        "picks_note": note,
        "strip": strip_of(facts),
        "agreement": agreement(facts),
        "evidence": evidence_of(facts),
        "rules": rules_of(facts),
        "listing": listing_of(facts),
    }
    return templates.get_template("report.html").render(content)


@functools.cache
def _templates() -> Environment:
    """Templates of this package; whatever is put into them is escaped, since names come from users."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("apq_tune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

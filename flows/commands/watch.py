"""What `instar watch` prints."""

from __future__ import annotations

from rich.console import Console

from flows.commands.tables import Column, show_table
from tasks.monitoring.data_watch import Report
from tasks.monitoring.summary import first, kinds, rows, sentence, verdict


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(sentence(report), soft_wrap=True, markup=False, highlight=False)
    if not report.changed:
        return
    if report.new is not None:
        columns = [Column(""), Column("items"), Column("the first ones", fold=True)]
        found = [[kind, f"{of.count:,}", first(of)] for kind, of in kinds(report).items()]
        show_table(console, "", columns, found)
    console.print(verdict(report), soft_wrap=True, markup=False, highlight=False)
    if report.drift:
        columns = [Column("measure", fold=True), Column("effect"), Column("p")]
        cells = [
            [row["measure"], f"{row['effect']:.3f}", f"{row['p']:.4f}"]
            for row in rows(report.drift)
        ]
        show_table(console, "", columns, cells)
    if report.started:
        said = f"A run for these data: {report.started.outcome}. {report.started.said}"
        console.print(said, soft_wrap=True, markup=False, highlight=False)

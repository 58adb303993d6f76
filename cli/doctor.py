"""`lt doctor`: what works on this machine, and the command that adds what is missing."""

from lt.cli.output import JsonOption, print_json

_MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "note": "[cyan]note[/]"}


def doctor(as_json: bool = JsonOption) -> None:
    """Show what works on this machine: device, memory, extras, backends, weights, data."""
    from lt.recipes.doctor import examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    topic = ""
    for finding in findings:
        if finding.topic != topic and topic:
            table.add_row("")
        remedy = f"\n[dim]{escape(finding.remedy)}[/]" if finding.remedy else ""
        shown_topic = finding.topic if finding.topic != topic else ""
        table.add_row(
            f"[bold]{shown_topic}[/]", escape(finding.name), _MARKS[finding.state], escape(finding.detail) + remedy
        )
        topic = finding.topic
    Console(highlight=False).print(table)

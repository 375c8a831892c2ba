"""`datasets`, the function behind `segweave datasets`: what --data takes."""


def datasets() -> None:
    """Prints the data sets that have a name, and the folders that are understood."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from segweave.docstrings import first_sentence
    from segweave.tasks import TASKS

    console = Console(highlight=False)
    for task in TASKS.values():
        console.print(Text(f"{first_sentence(type(task))}:", "bold"))
        table = Table.grid(padding=(0, 2))
        for name, made in task.drawn.items():
            table.add_row(f"  --data {name}", Text(first_sentence(made)))
        for name, opened in task.datasets.items():
            table.add_row(f"  --data {name} --root DIR", Text(first_sentence(opened)))
        table.add_row("  --data DIR", Text(f"Your own folder: {task.tree}"))
        console.print(table)

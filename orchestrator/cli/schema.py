"""`sweepstakes schema`: the keys of a sweep file."""

from __future__ import annotations

import json

import click


@click.command()
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["json", "markdown"]),
    default="json",
    show_default=True,
    help="A JSON schema for editors, or a reference for readers.",
)
def schema(output_format: str) -> None:
    """Print the keys of a sweep file with types, defaults and meanings.

    An editor with a YAML language server checks a sweep file that begins with the line
    `# yaml-language-server: $schema=FILE`, where FILE holds this command's output.
    """
    from orchestrator.sweep.schema import json_schema, reference

    if output_format == "markdown":
        click.echo(reference(), nl=False)
    else:
        click.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))

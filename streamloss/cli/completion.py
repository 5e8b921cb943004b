"""`streamloss completion`: the script that makes a shell complete our command lines, as click writes it."""

from __future__ import annotations

import click

from streamloss.cli import candidates, shared


@click.command(cls=shared.Command, short_help="Print the script for TAB in bash, zsh or fish.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the script that makes TAB complete commands, options, their values, files, and the columns of the files that stand
    before them on the line.

    Put it where the shell looks for such scripts, and start a new shell:

    \b
      bash   ~/.local/share/bash-completion/completions/streamloss
      zsh    a file _streamloss in a folder of $fpath
      fish   ~/.config/fish/completions/streamloss.fish

    \b
    Examples:
      streamloss completion bash
      streamloss completion fish
    """
    from click.shell_completion import get_completion_class

    root, kind = click.get_current_context().find_root(), get_completion_class(shell)
    assert kind is not None
    script = kind(root.command, {}, "streamloss", candidates.VARIABLE).source()
    # click's script for fish cuts an offer at its first comma, and ours are lists too.
    click.echo(script.replace('string split ","', 'string split --max 1 ","'), nl=False)

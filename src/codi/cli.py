"""The command line, `codi`. Each command stands in `codi.commands` and imports torch only when it runs.

Exit codes: 0 done; 2 an error meant for the reader, whose message alone is printed; 130 interrupted (143 by
SIGTERM).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from codi import processes
from codi.commands import bench, data
from codi.commands.compare import compare
from codi.commands.console import complain, quiet_libraries
from codi.commands.convert import convert
from codi.commands.curves import curves
from codi.commands.evaluate import evaluate
from codi.commands.export import export
from codi.commands.generate import generate
from codi.commands.pretrain import pretrain
from codi.commands.probe import probe
from codi.commands.publish import merge, publish
from codi.commands.reproduce import reproduce
from codi.commands.serve import serve
from codi.commands.stop_curve import stop_curve
from codi.commands.train import quickstart, train
from codi.commands.ui import ui
from codi.commands.why import why
from codi.errors import CodiError, Interrupted
from codi.version import installed_version


class _Commands(TyperGroup):
    """Turns errors meant for the reader into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CodiError as error:
            if processes.is_first() or error.only_here:
                complain(str(error))
            raise typer.Exit(2) from error
        except BrokenPipeError:
            raise  # the reader of our output has left; typer ends quietly
        except OSError as error:
            name = f"'{error.filename}': " if error.filename else ""
            complain(f"{name}{error.strerror or error}. What was finished before is kept.")
            raise typer.Exit(2) from error
        except EOFError as error:  # typer would say "Aborted!" and nothing else
            complain(f"a file that was being read ends too early ({error or 'nothing is left in it'}).")
            raise typer.Exit(2) from error
        except Interrupted as error:
            if processes.is_first():
                complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            complain("interrupted. What was finished before is kept.")
            raise typer.Exit(130) from error


app = typer.Typer(
    name="codi",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would take longer than everything else
    help="CODI: reasoning in continuous thoughts, learned by self-distillation from written ones.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"codi {installed_version()}")
        raise typer.Exit


@app.callback()
def before_every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """CODI: reasoning in continuous thoughts, learned by self-distillation from written ones."""
    quiet_libraries()


app.command("quickstart")(quickstart)
app.command("train")(train)
app.command("pretrain")(pretrain)
app.command("eval")(evaluate)
app.command("stop-curve")(stop_curve)
app.command("curves")(curves)
app.command("compare")(compare)
app.command("reproduce")(reproduce)
app.command("why")(why)
app.command("generate")(generate)
app.command("probe")(probe)
app.command("convert")(convert)
app.command("merge")(merge)
app.command("publish")(publish)
app.command("export")(export)
app.command("serve")(serve)
app.command("ui")(ui)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point of the `codi` script."""
    app()


if __name__ == "__main__":
    main()

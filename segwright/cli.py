"""The command line: its verbs, and what a mistake gets."""

import errno
import os
import sys

import typer

from segwright.commands import data, deploying, networks, scoring, training

app = typer.Typer(
    help="From a folder of images and masks to a trained, measured, deployed segmenter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for verb in (
    data.inspect,
    data.plan,
    training.find_rate,
    training.train,
    scoring.evaluate,
    scoring.compare,
    deploying.predict,
    deploying.export,
    deploying.bench,
    scoring.report,
    networks.networks,
    networks.import_weights,
    data.cells,
):
    app.command()(verb)


def main() -> None:
    """Run the command line: a user's mistake is one sentence and exit code 2, a failure of the machine code 1.

    With SEGWRIGHT_TRACEBACK=1 in the environment the traceback is shown too.
    """
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except (OSError, RuntimeError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("SEGWRIGHT_TRACEBACK"):
        raise error
    sentence = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or "unknown").lower()
        sentence = (
            f"{error.filename or 'a file'} could not be written or read: {reason}; make room or choose another place"
        )
    typer.echo(f"Error: {sentence}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""The commands' names, and what their exceptions become: one line on stderr and an exit code.

The module of a command is imported when the command or its help is asked for; what takes seconds to import (torch,
transformers, Ray) when the command works.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter, ValidationError

from rtprune import __version__
from rtprune.errors import RTPruneError, UsageError
from rtprune.report.wording import one_line

MISUSED = UsageError.exit_code

READING = Group("Reading", sort_key=1)
DATASET = Group("Dataset", sort_key=2)
MEASURING = Group("Measuring", sort_key=3)
SHELL = Group("Shell", sort_key=4)

app = App(
    name="rtprune",
    help="Documents to text, with the visual tokens pruned that the text does not need.",
    help_epilogue="Every setting can also come from the environment: RTPRUNE_MODEL for --model, and so on.",
    help_format="plaintext",
    version=f"rtprune {__version__}",
    default_parameter=Parameter(negative=(), allow_repeating=True),
    suppress_keyboard_interrupt=False,
)
app["--help"].group = app["--version"].group = SHELL
for order, (path, group, summary) in enumerate(
    (
        ("reading:page", READING, "Read one page and print its text and token facts."),
        ("reading:run", READING, "Read a corpus into a Parquet dataset; run again, it reads what is missing."),
        ("reading:models", READING, "List the model families: published names, licences, modes, prompts."),
        ("dataset:stats", DATASET, "Print what a dataset holds: pages, failures by reason, tokens saved."),
        ("dataset:status", DATASET, "Print how far the runs of a dataset are: done, left, rate, time left."),
        ("dataset:failures", DATASET, "List what could not be read, why, and whether another try may help."),
        ("dataset:export", DATASET, "Write the text as files: Markdown, plain text or JSON lines, one a document."),
        ("dataset:sql", DATASET, "Ask a dataset by SQL: pages and documents, current ones, runs, failures, savings."),
        ("dataset:compact", DATASET, "Merge a dataset's small files into large ones."),
        ("dataset:verify", DATASET, "Check that every planned page is in exactly one row, in an undamaged file."),
        ("evaluating:eval", MEASURING, "Score Markdown answers, of any system, on a published benchmark."),
        ("machine:doctor", MEASURING, "Look at what a run needs: device, model, Ray, Prefect, disk, an OUTPUT."),
        ("bench:bench", MEASURING, "Measure speed and cost on this machine."),
    )
):
    name = path.partition(":")[2]
    app.command(f"rtprune.cli.{path}", name=name, group=group, help=summary, sort_key=order)
app.register_install_completion_command(help="Install completion of commands and flags for your shell.", group=SHELL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 (failed), 2 (wrong use), 3 (too much failed), 128 + signal."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ValidationError as error:
        flag = error.argument.name if error.argument else ""
        return _complain(f"{flag} {error.exception_message}".strip(), MISUSED)
    except CycloptsError as error:
        return _complain(str(error), MISUSED)
    except RTPruneError as error:
        return _complain(str(error), error.exit_code)
    return code


def _run(arguments: list[str]) -> int:
    named, apps, left = app.parse_commands(arguments)
    if not left and apps[-1].default_command is None:  # where the library would print the help and end with 0
        raise UsageError("a command is needed", f"{' '.join(['rtprune', *named])} --help lists them")
    return app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0


def _complain(message: str, code: int) -> int:
    print(f"rtprune: error: {one_line(message)}", file=sys.stderr)
    return code

"""What a machine lacks: ``rtprune doctor``."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from typing import Annotated, Any

from cyclopts import Parameter

from rtprune.cli.flags import AsJson, command, run_settings

FAILED = 1  # exit code where there is a problem

Output = Annotated[
    str | None,
    Parameter(help="An OUTPUT to look at too: a small object is written there and deleted.", show_default=False),
]


@command(settings=("model", "ray_address"))
def doctor(output: Output = None, /, *, json: AsJson = False, **given: Any) -> int:
    """Look at what a run needs: device, model, renderer, Ray, Prefect, disk, and an OUTPUT. Nothing is fetched."""
    from rtprune.doctor import examine
    from rtprune.report.doctor import check_lines

    found = []
    for check in examine(run_settings(given), output):
        found.append(check)
        if not json:
            print(*check_lines(check), sep="\n", flush=True)
    if json:
        print(dumps([asdict(check) for check in found], indent=2))
    return FAILED if any(check.state == "problem" for check in found) else 0

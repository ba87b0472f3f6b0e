"""A whole run without a model: plan in two steps, commit what is missing, sweep. Made to be killed.

``python -m tests.dataset.commit_loop OUTPUT RUN_ID``
"""

from __future__ import annotations

import random
import sys

from rtprune.dataset import Output, commit_unit, done_units, sweep
from tests.dataset.samples import CONFIG, document, plan, planned_units, publish_documents, rows_of

DOCUMENTS = [document(f"{number:03d}", number % 7 + 1) for number in range(50)]


def main(output_uri: str, run_id: str) -> None:
    """Begin or resume when a line comes in; one line goes out for every commit.

    The rows say which run wrote them, so that the files of two runs differ.
    """
    output = Output.open(output_uri, CONFIG)
    print("ready", flush=True)
    sys.stdin.readline()
    for documents in (DOCUMENTS[:25], DOCUMENTS[25:]):
        plan(output, documents, unit_pages=4, run_id=run_id)
    done = done_units(output)
    units = [unit for unit in planned_units(output) if unit.unit_id not in done]
    random.Random(run_id).shuffle(units)
    for unit in units:
        commit_unit(output, unit, rows_of(unit, say=run_id), run_id)
        print(unit.unit_id, flush=True)
    publish_documents(output)
    sweep(output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the plans of a dataset ask for, checked: units whose ids, slices and documents agree with one another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtprune.dataset.findings import Collector
from rtprune.dataset.output import Output
from rtprune.dataset.plan import plan_table, standing_documents
from rtprune.dataset.schema import DOCUMENTS
from rtprune.errors import RTPruneError
from rtprune.store import find, get, join

#: ``doc_id``, first and last page.
Slice = tuple[str, int, int]


class Planned:
    """The units that the plans ask for, as ranges of pages."""

    def __init__(self, output: Output, off: Collector) -> None:
        """Load all plans; what is wrong with them goes to ``off``."""
        self.units: dict[str, list[Slice]] = {}
        #: Whether all plans could be read, so that what they do not ask for was never asked for.
        self.whole = True
        self._doc_ids: set[str] = set()
        self._tables: list[pa.Table] = []
        self._owners: dict[str, list[tuple[int, int, str]]] | None = None
        for number, uri in enumerate(find(join(output.uri, "_rtprune", "plans"), ".parquet"), start=1):
            if uri != output.plan_uri(number):
                off.add("missing-plan", output.plan_uri(number), f"there is {uri.rsplit('/', 1)[1]}, but not this one")
                self.whole = False
                break
            try:
                self._take(plan_table(get(uri), uri), uri, output.config_hash, off)
            except RTPruneError as error:
                off.add("damaged-plan", uri, str(error))
                self.whole = False
                break
        for unit_id, slices in self.units.items():
            computed = _unit_id(slices, output.config_hash)
            if unit_id != computed:
                off.add("wrong-unit-id", unit_id, f"its pages and the configuration make {computed}")

    @property
    def page_count(self) -> int:
        """Number of pages in all units."""
        return sum(self.pages_in(unit_id) for unit_id in self.units)

    def pages_in(self, unit_id: str) -> int:
        """Number of pages in a unit; 0 for one that is not planned."""
        return sum(last - first + 1 for _, first, last in self.units.get(unit_id, ()))

    def pages_of(self, units: Iterable[str]) -> dict[tuple[str, int], str]:
        """(``doc_id``, page) of every page of the units, with its unit."""
        return {
            (doc_id, page): unit_id
            for unit_id in units
            for doc_id, first, last in self.units.get(unit_id, ())
            for page in range(first, last + 1)
        }

    def owner(self, doc_id: str, page: int) -> str | None:
        """The unit that a page was planned into, if any."""
        if self._owners is None:
            self._owners = {}
            for unit_id, slices in self.units.items():
                for of, first, last in slices:
                    self._owners.setdefault(of, []).append((first, last, unit_id))
        pieces = self._owners.get(doc_id, ())
        return next((unit_id for first, last, unit_id in pieces if first <= page <= last), None)

    def check_documents(self, output: Output, off: Collector, harmless: Collector) -> None:
        """Hold the ``documents`` files against the plans they come from."""
        if not self.whole:
            return
        found = set(find(join(output.uri, "documents"), ".parquet"))
        for number, (plan, standing) in enumerate(standing_documents(self._tables), start=1):
            uri = output.documents_uri(plan.column("run_id")[0].as_py(), number)
            if uri not in found:
                harmless.add("unpublished", uri, "the next run writes it")
                continue
            found.remove(uri)
            try:
                rows = pq.read_table(pa.BufferReader(get(uri)))
            except (pa.ArrowException, OSError) as error:
                off.add("damaged-documents", uri, " ".join(str(error).split()))
                continue
            if rows.equals(standing):
                continue
            if rows.equals(plan.select(DOCUMENTS.names).cast(DOCUMENTS)):
                harmless.add("unpublished", uri, "the next run removes the rows that a later plan supersedes")
            else:
                off.add("wrong-documents", uri, f"its rows are not those of {output.plan_uri(number)}")
        for uri in sorted(found):
            harmless.add("leftover", uri, "no plan made it, but a plain glob sees it")

    def _take(self, plan: pa.Table, uri: str, config_hash: str, off: Collector) -> None:
        self._tables.append(plan)
        if pc.unique(plan.column("config_hash")).to_pylist() != [config_hash]:
            off.add("wrong-configuration", uri, f"it was made with another configuration than {config_hash}")
        columns = (plan.column(name).to_pylist() for name in ("doc_id", "uri", "status", "pages", "slices"))
        for doc_id, document, status, pages, slices in zip(*columns, strict=True):
            expected = 1
            for piece in slices:
                if piece["first_page"] == expected and piece["last_page"] >= expected:
                    expected = piece["last_page"] + 1
                else:
                    expected = 0
                    break
                self.units.setdefault(piece["unit_id"], []).append((doc_id, piece["first_page"], piece["last_page"]))
            if expected != (pages + 1 if status == "ok" else 1):
                off.add("wrong-plan", uri, f"its units do not hold each page of {document} once")
            if status == "ok" and doc_id in self._doc_ids:
                off.add("wrong-plan", uri, f"the pages of {document} were planned before")
            if status == "ok":
                self._doc_ids.add(doc_id)


def _unit_id(slices: Iterable[Slice], config_hash: str) -> str:
    """As planning computes it, but not by its code: what is verified should not be its own witness."""
    content = json.dumps([config_hash, [list(piece) for piece in slices]])
    return hashlib.sha256(content.encode()).hexdigest()[:24]

"""`Adapter`: a data set's name, how its folders are looked through, and what it should have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raygait.datasets.expected import Expected
from raygait.datasets.layout import Scan
from raygait.datasets.report import IndexReport, compare
from raygait.errors import DatasetError
from raygait.sequences import GaitSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """One data set's layouts.

    Attributes:
        name: What `--dataset` calls it.
        layouts: The layouts it knows, a line each, for `--help` and for messages.
        look: Looks through a root and notes its sequences.
        expected: What the benchmark has; None for what is nobody's benchmark.
        takes_file: Whether the root may be a file, whose folder the sources are below.
        takes_others: Whether other data is read by the same layout, with subjects of its own.
    """

    name: str
    layouts: str
    look: Callable[[Scan], None]
    expected: Expected | None = None
    takes_file: bool = False
    takes_others: bool = False

    def index(self, root: Path | str, *, dataset: str = "") -> list[GaitSequence]:
        """Every sequence below a root, sorted by its path.

        What does not fit, cannot be read or is there twice is left out and named in the log, and in
        the report of `survey`. Whether a sequence can be used is found out when it is read.

        Args:
            root: Folder of the data set; for `manifest` its file or the file's folder.
            dataset: Name that the sequences get; the adapter's where it is empty.

        Raises:
            DatasetError: The root cannot be read, nothing in it fits a layout, or nobody in it is
                a subject of the benchmark.
        """
        return self.scan(root, dataset=dataset).sequences

    def survey(self, root: Path | str, *, dataset: str = "") -> IndexReport:
        """What is there, missing, extra, duplicated, unreadable and left out.

        Raises:
            DatasetError: As `index`.
        """
        return self.report(self.scan(root, dataset=dataset))

    def scan(self, root: Path | str, *, dataset: str = "") -> Scan:
        """One pass over a root: what `index` and `report` are made of.

        Raises:
            DatasetError: As `index`.
        """
        scan = Scan(Path(root), dataset or self.name, takes_file=self.takes_file)
        self.look(scan)
        groups = self.expected.groups if self.expected else ()
        scan.leave_out_linked({subject for group in groups for subject in group.subjects})
        if not scan.sequences:
            raise DatasetError(
                f"{root}: no sequence of {self.name} in it; expected {self.layouts}; is this the "
                "root?"
            )
        self._check_subjects(scan)
        # By the parts of the path: `001/x` comes before `001-a/x`.
        scan.sequences.sort(key=lambda sequence: sequence.source.split("/"))
        return scan

    def _check_subjects(self, scan: Scan) -> None:
        """A root one level off fits the layout as well; its folders would become people."""
        found = {sequence.subject for sequence in scan.sequences}
        if self.expected is None or found & self.expected.subjects:
            return
        known = self.expected.groups[0].subjects
        problem = (
            f"not one subject of {self.name} ({known[0]} to {known[-1]}) among the {len(found)} "
            f"that are there, such as {min(found)}"
        )
        if not self.takes_others:
            raise DatasetError(
                f"{scan.root}: {problem}; expected {self.layouts}; is this the root? Other data "
                "is read with --dataset folder"
            )
        logger.warning("%s: %s; is this the root?", scan.root, problem)

    def report(self, scan: Scan) -> IndexReport:
        """What a pass has found, held against the benchmark."""
        return compare(scan, self.name, self.expected)

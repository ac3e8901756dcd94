import re
from pathlib import Path

import numpy as np
import pytest

from raygait.datasets.protocols import protocol
from raygait.errors import DatasetError
from raygait.evaluation import submission
from raygait.evaluation.submission import Expected, check, header

GREW = protocol("grew-submission")
# Eleven subjects with two walks each, at 0, 10, 20, ...; walk 02 is 1 further.
GALLERY = [
    (f"{number:05d}", condition, f"v{number}{condition}", 10.0 * number + step)
    for number in range(1, 12)
    for step, condition in enumerate(("01", "02"))
]
PROBES = [("probe", "03", "k9", 10.4), ("probe", "03", "a7", 110.0)]


def labels_of(rows: list[tuple[str, str, str, float]]):
    *labels, values = zip(*rows, strict=True)
    return labels, np.array(values, np.float32).reshape(-1, 1, 1)


def write(path: Path, rows: list[tuple[str, str, str, float]]) -> int:
    labels, embeddings = labels_of(rows)
    return submission.write(path, embeddings, *labels, GREW, ["probe"])


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_each_probe_has_a_line_of_the_nearest_subjects_by_number(tmp_path, reverse: bool) -> None:
    rows = [*GALLERY, *PROBES, ("00003", "03", "labelled", 10.4), ("probe", "01", "x", 10.4)]
    assert write(tmp_path / "s.csv", rows[::-1] if reverse else rows) == 2
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "videoId," + ",".join(f"rank{k}" for k in range(1, 21))
    # a7 at 110: subject 11 (0, 1 away), then 10 (9, 10), 9 (19, 20), ... to 2 (89, 90).
    assert lines[1] == "a7," + ",".join(f"{n},{n}" for n in range(11, 1, -1))
    # k9 at 10.4: subject 1 (0.4, 0.6), 2 (9.6, 10.6), ... to 10.
    assert lines[2] == "k9," + ",".join(f"{n},{n}" for n in range(1, 11))
    assert len(lines) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_the_nearest_by_cosine_are_those_of_its_direction(tmp_path: Path) -> None:
    """The lower a number, the further its walks point away; those of person 11 are far off."""
    angles = np.repeat(np.arange(11, dtype=np.float32)[::-1], 2) * 0.1
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gallery[-2:] *= 1000
    embeddings = np.concatenate([gallery, [[1, 0]]]).astype(np.float32)[:, None]
    labels, _ = labels_of([*GALLERY, PROBES[0]])
    for name, first, last in (("cosine:grew-submission", 11, 2), ("grew-submission", 10, 1)):
        file = tmp_path / "s.csv"
        submission.write(file, embeddings, *labels, protocol(name), ["probe"])
        ranked = file.read_text().splitlines()[1].split(",")[1:]
        assert ranked == [str(n) for n in range(first, last - 1, -1) for _ in range(2)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (GALLERY, "finds 0 unknown probes and 22 gallery walks; it needs conditions 01 and 02"),
        (PROBES, "finds 2 unknown probes and 0 gallery walks"),
        ([*GALLERY[:19], *PROBES], "names the 20 nearest gallery walks, there are 19"),
        ([*GALLERY, *PROBES, PROBES[0]], "two probes have the video id k9"),
        ([*GALLERY, *PROBES, ("anna", "01", "v", 0.0)], "subject 'anna' of the gallery is no"),
        (
            [*GALLERY, *PROBES, ("1", "01", "v", 0.0), ("02", "01", "v", 0.0)],
            "subjects 00001, 1 of the gallery are one number, 1, in the submission",
        ),
        ([*GALLERY, ("probe", "03", "", 0.0)], r"a probe's view .*: there is no video id"),
        ([*GALLERY, ("probe", "03", "k9 ", 0.0)], r"a probe's view .* spaces .*'k9 '"),
        ([*GALLERY, ("probe", "03", "k\r9", 0.0)], r"a probe's view .* be printed"),
        ([*GALLERY, ("probe", "03", "k\udc80", 0.0)], r"a probe's view .* be printed"),
        ([*GALLERY, ("probe", "03", "k" * 1001, 0.0)], r"a probe's view .* of 1001 characters"),
    ],
    ids=["no probe", "no gallery", "few", "one id twice", "no number", "two of one number",
         "no id", "padded id", "two lines", "no text", "long id"],
)  # fmt: skip
def test_what_cannot_be_submitted_is_said_and_nothing_written(tmp_path, rows, says) -> None:
    with pytest.raises(DatasetError, match=says):
        submission.expected(*labels_of(rows)[0], GREW, ["probe"])
    with pytest.raises(DatasetError, match=says):
        write(tmp_path / "deep" / "s.csv", rows)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    (tmp_path / "s.csv" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match=r"s\.csv"):
        write(tmp_path / "s.csv", [*GALLERY, *PROBES])
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


class TestCheck:
    DUE = Expected(frozenset({"a7", "k9"}), frozenset({"1", "2"}))

    @staticmethod
    def text(*lines: str) -> str:
        return "\n".join([",".join(header(20)), *lines]) + "\n"

    def test_a_complete_file_passes_whatever_its_order(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text(self.text("k9" + ",1" * 20, "a7" + ",2" * 20))
        assert check(path, GREW, self.DUE) == 2
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert check(path, GREW, self.DUE) == check(path, GREW) == 2

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            (["a7" + ",1" * 20], "s.csv: 1 probes are missing: k9"),
            (["a7" + ",1" * 20, "a7" + ",1" * 20], "line 3: video a7 is in line 2 too"),
            (["a7" + ",1" * 19], "line 2: expected 21 columns, got 20"),
            (["a7" + ",1" * 21], "line 2: expected 21 columns, got 22"),
            (["a7" + ",1" * 20, ""], "line 3: expected 21 columns, got 0"),
            ([",1" * 10 + ",1" * 10], "line 2: there is no video id"),
            (["a7" + ",1" * 19 + ",3"], "line 2, rank20: 3 is not in the gallery"),
            (["a7,00001" + ",1" * 19], "rank1: expected the number .* zeros, got '00001'"),
            (["a7,anna" + ",1" * 19], "line 2, rank1: expected the number .*, got 'anna'"),
            (["a7,-1" + ",1" * 19], "rank1: expected the number .*, got '-1'"),
            (["a7," + ",1" * 19], "rank1: expected the number .*, got ''"),
            (
                ["a7" + ",1" * 20, "k9" + ",1" * 20, "z" + ",1" * 20],
                "s.csv: 1 videos are no probes: z",
            ),
        ],
    )
    def test_what_is_wrong_is_said_with_its_line(self, tmp_path: Path, lines, says) -> None:
        path = tmp_path / "s.csv"
        path.write_text(self.text(*lines))
        with pytest.raises(DatasetError, match=says):
            check(path, GREW, self.DUE)

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("vid3,0001" + ",1" * 19, "line 2, rank1: expected the number .* zeros, got '0001'"),
            ("vid3" + ",1" * 19 + ",00", "line 2, rank20: expected the number .*, got '00'"),
            ("vid3" + ",1" * 19 + ", 1", "line 2, rank20: expected the number .*, got ' 1'"),
            (" vid3" + ",1" * 20, "line 2: .* spaces around it: ' vid3'"),
            ('"vid3\n"' + ",1" * 20, r"line 2: .* spaces around it: 'vid3\\n'"),
        ],
    )
    def test_its_form_is_looked_at_without_knowing_what_it_has_to_hold(
        self, tmp_path: Path, line: str, says: str
    ) -> None:
        path = tmp_path / "s.csv"
        path.write_text(self.text(line))
        with pytest.raises(DatasetError, match=says):
            check(path, GREW)
        path.write_text(self.text("vid3,0,10" + ",1" * 18))
        assert check(path, GREW) == 1

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", r"line 1: expected videoId,rank1,...,rank20, got nothing"),
            (b"videoID,rank1\n", "line 1: expected videoId,.*got videoID,rank1"),
            (b"\xff\xfe\x00", "not a submission: "),
            (b'"' + b"x" * 200_000, "not a submission: |line 1"),
        ],
        ids=["empty", "other header", "no text", "an endless field"],
    )
    def test_another_file_is_refused(self, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "s.csv"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=says) as caught:
            check(path, GREW)
        assert re.match(re.escape(str(path)), str(caught.value))

    def test_a_file_that_is_not_there_and_one_without_probes(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="cannot be read: No such file"):
            check(tmp_path / "s.csv", GREW)
        (tmp_path / "s.csv").write_text(self.text())
        with pytest.raises(DatasetError, match="there is no probe in it"):
            check(tmp_path / "s.csv", GREW)

import json
import sys
from pathlib import Path

import pytest

import jobs.report
from raygait.errors import ShardError, TrainingError
from raygait.figures.gathering import gather
from raygait.recipes.named import recipe
from raygait.sequences import Reject
from raygait.shards.reader import Manifest
from raygait.shards.writer import PartWriter


def write_shards(root: Path, rows, rejects=()):
    name = "part-0123456789abcdef"
    with PartWriter(root, name, num_sources=len(rows)) as writer:
        for row in rows:
            writer.add(row)
        for reject in rejects:
            writer.reject("clips", "bad.mp4", reject)
        writer.commit()
    Manifest({}, {"video": 1}, (name,)).write(root)
    return root


@pytest.fixture
def clips(tmp_path, make_row) -> Path:
    rows = [make_row(f"clips/a.mp4#{number}", track=number) for number in (10, 2, 1, 3, 4)]
    reject = Reject("clips:bad.mp4", -1, "decode", "undecodable", "empty file")
    return write_shards(tmp_path / "clips", rows, [reject])


@pytest.fixture
def walks(tmp_path, make_row) -> Path:
    rows = [
        make_row(
            f"walks/{subject}/{condition}/090",
            dataset="walks",
            source=f"{subject}/{condition}/090",
            subject=subject,
            condition=condition,
            view="090",
            track=0,
            pictures=False,
        )
        for subject in ("001", "002", "003")
        for condition in ("nm-01", "nm-02")
    ]
    return write_shards(tmp_path / "walks", rows)


@pytest.fixture
def run(tmp_path, history, evaluation) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "history.jsonl").write_text("".join(json.dumps(p) + "\n" for p in history))
    for name, value in {
        "recipe.json": recipe("gaitgl-demo").to_dict(),
        "evaluation.json": evaluation,
        "distances.json": {"labels": ["a", "b"], "values": [[0, 1], [1, 0]]},
        "timings.json": {"train": 12.5},
        "commands.json": [["Train", "python jobs/train.py gaitgl-demo"]],
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "grid.txt").write_text("* model.fusion=cat  ->  NM  84.0\n")
    return folder


def test_all_that_is_on_disk_gets_onto_the_page(clips, walks, run, history, evaluation):
    report = gather([clips, walks], [run], commands=[("Page", "python jobs/report.py")])
    assert [row["track"] for row in report.tracks] == [1, 2, 3, 4, 10]
    assert all(row["rgb"] for row in report.tracks)
    assert [row["sequence_id"] for row in report.walkers] == [
        f"walks/{subject}/nm-01/090" for subject in ("001", "002", "003")
    ]
    assert [reject["reason"] for reject in report.rejects] == ["undecodable"]
    assert report.history == history
    assert report.recipe["optim.learning_rate"] == 3e-3
    assert report.evaluation == evaluation
    assert report.distances.labels == ["a", "b"]
    assert "model.fusion=cat" in report.grid
    assert report.timings == {"train": 12.5}
    assert report.commands == [
        ("Train", "python jobs/train.py gaitgl-demo"),
        ("Page", "python jobs/report.py"),
    ]
    assert report.missing == []


def test_versions_say_what_made_the_rows_and_what_made_the_page(clips, walks):
    versions = gather([clips, walks], []).versions
    assert list(versions) == [
        "Rows of clips were made with",
        "Rows of walks were made with",
        "Digests of the shards",
        "This page was made with",
    ]
    assert versions["Rows of clips were made with"] == {
        "raygait": "9.9",
        "av": "1.2",
        "net": "SHA-256 abcdef…",
    }
    assert len(versions["Digests of the shards"]) == 2
    assert {"raygait", "Python", "ray", "torch"} <= versions["This page was made with"].keys()


def test_of_many_tracks_some_are_shown_and_all_are_listed(clips):
    report = gather([clips], [], max_tracks=2)
    assert [row["track"] for row in report.tracks] == [1, 10]
    assert [row["track"] for row in report.all_tracks] == [1, 2, 3, 4, 10]
    assert "rgb" not in report.all_tracks[0]


def test_what_is_missing_is_said(walks, tmp_path):
    (tmp_path / "empty").mkdir()
    report = gather([walks], [tmp_path / "empty"])
    said = [sentence.split(":")[0] for sentence in report.missing]
    assert said == [
        "Real people", "Benchmark", "Distances", "Grid", "Training curves", "Recipe", "Time",
        "Commands",
    ]  # fmt: skip
    assert "there is no evaluation.json in" in report.missing[1]
    assert gather([], []).missing[-1].endswith("none was given.")
    assert gather([], []).rejects is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("evaluation.json", "{", "Invalid JSON", id="cut short"),
        pytest.param("timings.json", "[1]", "should be an object", id="another kind of value"),
        pytest.param("evaluation.json", "{}", "protocol: Field required", id="nothing in it"),
        pytest.param(
            "distances.json",
            '{"labels": ["a", "b"], "values": [[1]]}',
            "has no 2 x 2 values",
            id="a matrix that is not square",
        ),
        pytest.param(
            "distances.json",
            '{"labels": [1], "values": [[0]]}',
            "labels.0",
            id="a label of no text",
        ),
        pytest.param(
            "distances.json", '{"labels": ["a"], "values": null}', "values", id="no values"
        ),
        pytest.param("timings.json", '{"train": "long"}', "train", id="a time of no number"),
        pytest.param("commands.json", '["python"]', "0:", id="commands without what they do"),
        pytest.param(
            "evaluation.json",
            '{"protocol": "casiab", "split": "x", "rows": {}}',
            "rows",
            id="a table without rows",
        ),
        pytest.param(
            "history.jsonl", '{"loss": 1}\n', "without a step", id="points without a step"
        ),
        pytest.param("recipe.json", '{"name": 1}', "is not one", id="a recipe of another version"),
    ],
)
def test_a_damaged_file_is_left_out_and_said(run, name, content, says):
    (run / name).write_text(content)
    report = gather([], [run])
    assert [sentence for sentence in report.missing if name in sentence and says in sentence]
    assert report.history or name == "history.jsonl"


def test_a_file_is_read_from_the_first_folder_that_has_it(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "grid.txt").write_text("first")
    assert gather([], [other, run]).grid == "first"
    assert gather([], [other, run]).history


def test_folders_that_do_not_exist_are_errors(tmp_path):
    with pytest.raises(TrainingError, match="no such folder"):
        gather([], [tmp_path / "nowhere"])
    with pytest.raises(ShardError, match="no folder of shards"):
        gather([tmp_path], [])


def test_the_job_writes_the_page_and_says_what_it_left_out(
    clips, walks, run, tmp_path, monkeypatch, capsys
):
    (run / "grid.txt").unlink()
    out = tmp_path / "page.html"
    words = ["--shards", str(clips), str(walks), "--run", str(run), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["report.py", *words, "--title", "Tuesday's run"])
    assert jobs.report.main() == 0
    printed = capsys.readouterr().out
    assert f"left out: Grid: there is no grid.txt in {run}." in printed
    assert f"page: {out}" in printed
    page = out.read_text()
    assert "<h1>Tuesday&#x27;s run</h1>" in page
    assert "Make this page" in page

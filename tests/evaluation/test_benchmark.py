"""Benchmarks of other data sets than CASIA-B: the walkers under other names."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raygait.datasets.protocols import protocol
from raygait.errors import DatasetError, SplitMismatch
from raygait.evaluation.benchmark import (
    TRAINED,
    Benchmark,
    check_submission,
    metrics_of,
    metrics_of_file,
    run_benchmark,
    score_embeddings,
)
from raygait.evaluation.embed_shards import embed_shards
from raygait.evaluation.tables import ProtocolTable
from raygait.recipes import named
from raygait.recipes.saved_model import initial_model, load_model, save_model
from raygait.recipes.schema import with_overrides
from raygait.shards import reader
from raygait.shards.writer import PartWriter

Labels = tuple[str, str, str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = with_overrides(
        named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8], "data.split": "first:4"}
    )
    folder = tmp_path_factory.mktemp("model")
    saved = initial_model(recipe, ["001", "002", "003", "004"])
    save_model(folder, saved.network, recipe, saved.subjects, step=0)
    return folder


@pytest.fixture
def renamed(walker_shards: Path, tmp_path: Path) -> Callable[[Callable[..., Labels]], Path]:
    """Shards of the walkers with other subjects, conditions and views."""

    def rename(names: Callable[[str, str, str], Labels]) -> Path:
        root = tmp_path / "shards"
        shutil.copytree(walker_shards, root)
        for shard in reader.list_shards(root):
            rows = list(reader.iterate_rows(shard))
            with PartWriter(root, shard.stem, num_sources=len(rows)) as writer:
                for row in rows:
                    labels = names(row["subject"], row["condition"], row["view"])
                    changed = dict(zip(("subject", "condition", "view"), labels, strict=True))
                    writer.add({**row, **changed})
                writer.commit()
        return root

    return rename


def _grew(subject: str, condition: str, view: str) -> Labels:
    if subject == "005":
        return "00001train", "00", f"{condition}-{view}"
    if subject == "006":
        return "probe", "03", f"{condition}{view}"
    number = int(condition[-2:])
    return f"{int(subject):05d}", "01" if number % 2 else "02", f"{condition}-{view}"


def _grew_of_one(subject: str, condition: str, view: str) -> Labels:
    """A gallery of one subject's walks."""
    names = _grew(subject, condition, view)
    return names if subject in ("001", "006") else ("00001train", "00", "-".join(names))


def _grew_with_spaces(subject: str, condition: str, view: str) -> Labels:
    named, filed, video = _grew(subject, condition, view)
    return named, filed, f"{video} "


@pytest.mark.ray
class TestShards:
    def test_grews_unknown_are_submitted_and_count_as_nobody(
        self, renamed, model: Path, tmp_path: Path
    ) -> None:
        shards, file = renamed(_grew), tmp_path / "submission.csv"
        result = run_benchmark(
            model,
            shards,
            split="grew",
            protocol="grew-submission",
            submission_path=file,
            num_workers=0,
        )
        assert (result.protocol, result.submission) == ("grew-unofficial", "grew-submission")
        assert (result.num_subjects, result.num_submitted) == (4, 16)
        assert 0 < result.chance["rank1"] < 100
        assert "grew-unofficial/rank20" in result.metrics()
        assert check_submission(file, shards, split="grew", protocol="grew-submission") == 16

        embed_shards(shards, model, tmp_path / "embeddings", num_workers=0)
        other = tmp_path / "from" / "disk.csv"
        again = score_embeddings(
            tmp_path / "embeddings", split="grew", protocol="grew-submission", submission_path=other
        )
        assert again.to_dict() == result.to_dict()
        assert other.read_text() == file.read_text()

        file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
        with pytest.raises(DatasetError, match="1 probes are missing: nm-06090"):
            check_submission(file, shards, split="grew", protocol="grew-submission")
        with pytest.raises(DatasetError, match="'casiab' writes no submission"):
            check_submission(file, shards, split="grew", protocol="casiab")

    def test_probes_come_from_a_partition_file(
        self, walker_shards: Path, model: Path, tmp_path: Path
    ) -> None:
        lists = tmp_path / "lists.json"
        probes = [
            f"{subject}-nm-01-{view}" for subject in ("005", "006") for view in ("054", "090")
        ]
        content = {
            "TRAIN_SET": ["001", "002", "003", "004"],
            "TEST_SET": ["005", "006"],
            "PROBE_SET": probes,
        }
        lists.write_text(json.dumps(content))
        result = run_benchmark(
            model, walker_shards, split=f"partition:{lists}", protocol="listed", num_workers=0
        )
        table = result.rows[TRAINED]
        assert set(table.means) == {"rank1", "rank5", "rank10", "mAP", "mINP"}
        # Fourteen walks of each in the gallery.
        assert result.chance["rank1"] == pytest.approx(50)
        assert 0 < table.means["mINP"] <= table.means["mAP"] <= 100
        file = tmp_path / "evaluation.json"
        file.write_text(json.dumps(result.to_dict(), allow_nan=False))
        assert metrics_of_file(file, model) == metrics_of(result.to_dict())
        assert "listed/mAP-chance" in metrics_of(result.to_dict())
        with pytest.raises(DatasetError, match="'listed' needs the walks that the partition file"):
            run_benchmark(model, walker_shards, split="first:4", protocol="listed", num_workers=0)

    def test_a_model_is_scored_on_another_data_set_by_its_protocol(
        self, renamed, model: Path
    ) -> None:
        """Train on A, test on B, whose names are other ones."""
        shards = renamed(
            lambda subject, condition, view: (
                f"{2 * int(subject):05d}",
                "01" if condition == "nm-01" else "00",
                view,
            )
        )
        for name in ("oumvlp", "oumvlp-valid", "cosine:oumvlp", "open-set:oumvlp"):
            result = run_benchmark(model, shards, split="oumvlp", protocol=name, num_workers=0)
            assert (result.num_subjects, result.split, result.protocol) == (6, "oumvlp", name)
            assert result.rows[TRAINED].views == ("054", "090")
            assert all(metric.startswith(f"{name}/") for metric in result.metrics())
            assert f"protocol {name}, split oumvlp: 6 subjects" in result.to_text()


@pytest.fixture
def trained_on(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model as if it had been trained on some subjects of a data set."""

    def save(subjects: list[str], origin: dict[str, str], spoil: bool = False) -> Path:
        saved = load_model(model)
        if spoil:
            next(saved.network.parameters()).data.fill_(math.nan)
        folder = tmp_path / "trained"
        save_model(folder, saved.network, saved.recipe, subjects, step=0, origin=origin)
        return folder

    return save


@pytest.mark.ray
class TestWhatIsRefused:
    def test_people_that_the_model_was_trained_on_are_no_test(
        self, walker_shards: Path, trained_on, tmp_path: Path
    ) -> None:
        folder = trained_on(["003", "004", "005", "006"], {"dataset": "walkers"})
        with pytest.raises(SplitMismatch, match=r"tests 2 of the 4 .* such as 005, of walkers"):
            run_benchmark(folder, walker_shards, split="first:4", num_workers=0)
        embed_shards(walker_shards, folder, tmp_path / "embeddings", num_workers=0)
        with pytest.raises(SplitMismatch, match=r"tests 2 of the 4 .* such as 005, of walkers"):
            score_embeddings(tmp_path / "embeddings", split="first:4", protocol="casiab")
        # Of another data set the same names are other people.
        folder = trained_on(["003", "004", "005", "006"], {"dataset": "casiab+ccpg"})
        assert run_benchmark(folder, walker_shards, split="first:4", num_workers=0).num_subjects

    @pytest.mark.parametrize(
        ("protocol", "sentence"),
        [
            ("ccpg", "'ccpg' finds nothing to compare in 32 sequences of the 2 test subjects"),
            ("gait3d", "needs the walks that the partition file"),
            ("grew-submission", "probe"),
        ],
    )
    def test_a_protocol_without_pairs_is_refused_before_anything_is_embedded(
        self, walker_shards: Path, trained_on, protocol: str, sentence: str
    ) -> None:
        # Embedding would end at the network's weights first.
        folder = trained_on(["1", "2", "3", "4"], {}, spoil=True)
        with pytest.raises(DatasetError, match=sentence):
            run_benchmark(folder, walker_shards, split="first:4", protocol=protocol, num_workers=0)

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [(_grew_of_one, "20 nearest .*, there are 16"), (_grew_with_spaces, "spaces around it")],
    )
    def test_a_submission_that_cannot_be_written_is_refused_before_anything_is_embedded(
        self, renamed, trained_on, names: Callable[..., Labels], sentence: str
    ) -> None:
        folder = trained_on(["1", "2", "3", "4"], {}, spoil=True)
        asked = {"split": "grew", "protocol": "grew-submission"}
        with pytest.raises(DatasetError, match=sentence):
            run_benchmark(folder, renamed(names), **asked, num_workers=0)

    def test_embeddings_that_are_no_numbers_are_said_with_a_sequence(
        self, walker_shards: Path, trained_on
    ) -> None:
        folder = trained_on(["1", "2", "3", "4"], {}, spoil=True)
        with pytest.raises(DatasetError, match=r"32 of 32 embeddings hold NaN.* that of walkers/"):
            run_benchmark(folder, walker_shards, split="first:4", num_workers=0)

    def test_scores_of_other_weights_are_not_this_models(
        self, walker_shards: Path, model: Path, trained_on, tmp_path: Path
    ) -> None:
        result = run_benchmark(model, walker_shards, num_workers=0)
        file = tmp_path / "evaluation.json"
        file.write_text(json.dumps(result.to_dict()))
        assert metrics_of_file(file, model)
        with pytest.raises(DatasetError, match="scores other weights of gaitgl-demo at step 0"):
            metrics_of_file(file, trained_on(["1", "2", "3", "4"], {}, spoil=True))


def benchmark(name: str, **values: float) -> Benchmark:
    """A benchmark whose numbers are nothing but those given."""
    rules = protocol(name)
    cells = {number: np.array(values.get(number, math.nan)) for number in rules.numbers}
    table = ProtocolTable(rules, (), cells, 0)
    guess = dict.fromkeys(rules.numbers, 1.0) | {rules.numbers[0]: math.nan}
    return Benchmark(rules.name, "s", 2, 9, 0, {TRAINED: table, "GEI": table}, guess, "r", 3, "d")


def test_of_many_numbers_a_row_shows_those_that_decide() -> None:
    text = benchmark("sustech1k", Overall=61.25, Bag=7.0).to_text().splitlines()
    at = next(number for number, line in enumerate(text) if line.startswith("mean rank-1"))
    assert text[at].split()[-1] == "Overall"
    assert [line.split()[-1] for line in text[at + 1 :]] == ["61.2", "61.2", "1.0"]


def test_few_numbers_are_all_shown_beside_chance() -> None:
    text = benchmark("gait3d", rank1=40.0, mAP=30.5).to_text().splitlines()
    assert text[-4].split() == ["mean", "(%)", "rank1", "rank5", "rank10", "mAP", "mINP"]
    assert text[-3].split() == ["trained", "40.0", "-", "-", "30.5", "-"]
    assert text[-1].split() == ["chance", "-", "1.0", "1.0", "1.0", "1.0"]


def test_the_csv_has_a_line_a_number_of_every_row() -> None:
    lines = list(csv.DictReader(io.StringIO(benchmark("ccpg", CL=40.0).to_csv())))
    assert [line["row"] for line in lines] == ["trained"] * 12 + ["GEI"] * 12 + ["chance"] * 12
    assert lines[0] == {
        "protocol": "ccpg",
        "row": "trained",
        "set": "CL",
        "metric": "rank1",
        "probe_view": "",
        "gallery_view": "",
        "percent": "40.0000",
    }
    assert (lines[1]["metric"], lines[1]["percent"]) == ("mAP", "")


def test_a_missing_number_is_null_in_json_and_no_metric() -> None:
    result = benchmark("ccpg", CL=40.0)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["chance"]["CL"] is None
    assert plain["headline"] == ["CL", "UP", "DN", "BG"]
    assert {"ccpg/CL/rank1", "ccpg/CL/rank1-GEI", "ccpg/CL/mAP-chance"} <= set(result.metrics())
    assert "ccpg/UP/rank1" not in result.metrics()
    assert "ccpg/CL/rank1-chance" not in result.metrics()

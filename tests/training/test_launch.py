import itertools
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from raygait.errors import ClusterTooSmall, RaygaitError, TrainingError
from raygait.recipes import named
from raygait.recipes.saved_model import load_model
from raygait.recipes.schema import Recipe, with_overrides
from raygait.training.checkpoint import damage_of, list_checkpoints
from raygait.training.launch import TrainResult, read_history, train, with_absolute_paths
from raygait.training.loop import make_optimiser, make_scheduler
from raygait.training.record import cut_torn_line, read_lines, take_over

pytestmark = pytest.mark.ray


def _recipe(**changes) -> Recipe:
    small = {
        "model.channels": [4, 8, 8],
        "data.split": "first:4",
        "clip.num_frames": 9,
        "batch.num_subjects": 4,
        "batch.num_sequences": 2,
        "num_steps": 6,
        "checkpoint_every_steps": 2,
        "keep_every_steps": 2,
    }
    return with_overrides(named.recipe("gaitgl-demo"), {**small, **changes})


@pytest.fixture(scope="module")
def trained(walker_shards: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("runs")
    result = train(_recipe(), walker_shards, out, name="two", num_workers=2, report_every_steps=1)
    return out, result


def test_a_run_on_two_workers_records_every_step_once_and_leaves_a_model(trained) -> None:
    out, result = trained
    assert [point["step"] for point in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.history == read_history(out / "two" / "history.jsonl")
    saved = load_model(result.checkpoint)
    assert saved.step == 6
    assert saved.recipe == _recipe()
    assert saved.subjects == ("001", "002", "003", "004")
    assert len(saved.origin["shards_digest"]) == 64


def test_training_moves_the_weights_away_from_their_seed(trained) -> None:
    from raygait.recipes.saved_model import initial_model

    _, result = trained
    before = initial_model(_recipe(), ["001", "002", "003", "004"]).network.state_dict()
    after = load_model(result.checkpoint).network.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not still


def test_the_same_name_again_continues_and_a_finished_run_has_nothing_left_to_do(
    trained, walker_shards: Path
) -> None:
    out, result = trained
    again = train(_recipe(), walker_shards, out, name="two", num_workers=2)
    assert again.checkpoint == result.checkpoint
    assert again.history == result.history


def test_another_recipe_under_the_same_name_is_refused_and_the_difference_named(
    trained, walker_shards: Path
) -> None:
    out, _ = trained
    with pytest.raises(TrainingError, match=r"optim.learning_rate: 0.003 there, 0.002 here"):
        train(_recipe(**{"optim.learning_rate": 0.002}), walker_shards, out, name="two")


def test_more_workers_than_the_cluster_can_place_is_an_error_and_not_a_wait(
    ray_session, walker_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ClusterTooSmall, match="64 workers of 1 CPUs each do not fit"):
        train(_recipe(), walker_shards, tmp_path, name="wide", num_workers=64)


def test_other_data_under_the_same_name_is_refused(
    trained, walker_shards: Path, tmp_path: Path
) -> None:
    from raygait.datasets import casiab
    from raygait.shards.ingest import ingest
    from raygait.synthetic import casiab_tree

    casiab_tree.write(tmp_path / "tree", num_subjects=5, conditions=["nm-01"], num_frames=12)
    ingest(casiab.index(tmp_path / "tree"), tmp_path / "tree", tmp_path / "shards")
    with pytest.raises(TrainingError, match="holds a run on other data"):
        train(_recipe(), tmp_path / "shards", trained[0], name="two", num_workers=2)


@pytest.mark.parametrize(
    ("changes", "num_workers", "reason"),
    [
        pytest.param({"data.split": "first:6"}, 1, "leaves 6 to train and 0 to test", id="split"),
        pytest.param({"data.split": "first:1"}, 1, "triplets need two", id="one subject"),
        pytest.param({"data.split": "gait3d"}, 1, "give gait3d:PATH", id="split without its file"),
        pytest.param(
            {"data.test_split": "partition:nowhere.json"},
            1,
            "nowhere.json: the partition file cannot be read",
            id="file that is not there",
        ),
        pytest.param(
            {"data.protocol": "gait3d"},
            1,
            "data.protocol is 'gait3d', which needs split gait3d:PATH",
            id="protocol without probes",
        ),
        pytest.param({}, 3, "8 clips cannot be split over 3 workers", id="uneven workers"),
        pytest.param({"clip.num_frames": 2}, 1, "the model needs 3 or more", id="clip too short"),
        pytest.param({"model.channels": [4, 8]}, 1, "one entry per stage", id="switches"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_does_not_claim_its_name(
    ray_session, walker_shards: Path, tmp_path: Path, changes, num_workers: int, reason: str
) -> None:
    with pytest.raises(RaygaitError, match=reason):
        train(_recipe(**changes), walker_shards, tmp_path, name="n", num_workers=num_workers)
    assert not list(tmp_path.iterdir())


def test_workers_get_the_partition_file_by_a_path_of_every_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    named_here = _recipe(**{"data.split": "gait3d:a.json", "data.test_split": "partition:b.json"})
    data = with_absolute_paths(named_here).data
    assert (data.split, data.test_split) == (
        f"gait3d:{tmp_path}/a.json",
        f"partition:{tmp_path}/b.json",
    )
    assert with_absolute_paths(_recipe()) == _recipe()


def test_a_torn_last_line_of_the_history_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [point["step"] for point in read_history(path)] == [1, 2]
    cut_torn_line(path)
    with path.open("a") as file:
        file.write('{"step": 3}\n')
    assert [point["step"] for point in read_history(path)] == [1, 2, 3]


def test_a_one_cycle_run_leaves_momentum_alone_and_ends_at_its_lowest_rate() -> None:
    changes = {"optim.optimiser": "sgd", "optim.momentum": 0.5, "optim.schedule": "one-cycle"}
    recipe = _recipe(**changes, num_steps=20)
    optimiser = make_optimiser(recipe, torch.nn.Linear(1, 1))
    scheduler = make_scheduler(recipe, optimiser)
    rates = []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        assert optimiser.param_groups[0]["momentum"] == 0.5
        optimiser.step()
        scheduler.step()
    assert max(rates) == pytest.approx(recipe.optim.learning_rate, rel=0.02)
    assert rates.index(max(rates)) == 2
    assert scheduler.get_last_lr()[0] < min(rates)


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_names_the_step(
    ray_session, walker_shards: Path, tmp_path: Path
) -> None:
    recipe = _recipe(**{"optim.optimiser": "sgd", "optim.learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"step [1-5]: loss is nan"):
        train(recipe, walker_shards, tmp_path, name="wild")


def _killed_after(run: Path, folder: Path, step: int) -> Path:
    """A copy of a finished run, as it was when `step` steps were on record."""
    shutil.copytree(run, folder)
    (folder / "finished.json").unlink()
    for done, checkpoint in list_checkpoints(folder).items():
        if done > step:
            shutil.rmtree(checkpoint)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:step]))
    return folder


def _events(run: Path) -> list[str]:
    return [line["event"] for line in read_lines(run / "events.jsonl")]


def _weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_model(result.checkpoint).network.state_dict()


def _assert_same_weights(one: TrainResult, other: TrainResult) -> None:
    a, b = _weights(one), _weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.timeout(420)
class TestGoingOn:
    def test_from_the_checkpoint_before_a_damaged_one_to_the_same_weights_and_says_so(
        self,
        trained,
        walker_shards: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        out, whole = trained
        folder = _killed_after(out / "two", tmp_path / "two", step=5)
        weights = folder / "checkpoint-00000004" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 4
        weights.write_bytes(content)
        result = train(_recipe(), walker_shards, tmp_path, name="two", num_workers=2)
        _assert_same_weights(result, whole)
        assert [point["step"] for point in result.history] == [1, 2, 3, 4, 5, 6]
        said, went_on = _events(folder)
        assert "damaged checkpoint is left out" in said
        assert "checkpoint-00000004: model.safetensors" in said
        assert went_on == "goes on from checkpoint-00000002 on 2 workers"
        assert any(said in record.getMessage() for record in caplog.records)

    def test_on_another_number_of_workers_and_back_with_the_same_batches(
        self, trained, walker_shards: Path, tmp_path: Path
    ) -> None:
        out, whole = trained
        _killed_after(out / "two", tmp_path / "one", step=2)
        one = train(_recipe(), walker_shards, tmp_path, name="one")
        assert "goes on from checkpoint-00000002 on 1 worker" in _events(tmp_path / "one")
        _killed_after(tmp_path / "one", tmp_path / "back", step=4)
        back = train(_recipe(), walker_shards, tmp_path, name="back", num_workers=2)
        for result in (one, back):
            for point, other in zip(result.history, whole.history, strict=True):
                # Sums in another order flip the sign of a ReLU here and there; another batch would
                # have another loss altogether, see below.
                assert point["step"] == other["step"]
                assert point["loss"] == pytest.approx(other["loss"], abs=1e-3)
        losses = [point["loss"] for point in whole.history]
        assert min(abs(a - b) for a, b in itertools.combinations(losses, 2)) > 4e-3
        for name, tensor in _weights(back).items():
            torch.testing.assert_close(tensor, _weights(whole)[name], atol=1e-4, rtol=1e-3)

    def test_with_as_many_workers_as_there_is_room_for_and_the_surplus_stands_by(
        self, trained, walker_shards: Path, tmp_path: Path
    ) -> None:
        # Four places, of which three are free; the batch of 8 splits over two of them.
        @ray.remote(num_cpus=1)
        class Neighbour:
            def is_there(self) -> bool:
                return True

        neighbour = Neighbour.remote()
        assert ray.get(neighbour.is_there.remote())
        try:
            result = train(
                _recipe(), walker_shards, tmp_path, name="few", num_workers=8, min_workers=1
            )
        finally:
            ray.kill(neighbour)
        assert _events(tmp_path / "few") == [
            "trains on 2 workers (1 more stand by: the batch does not split over all)"
        ]
        _assert_same_weights(result, trained[1])

    def test_a_second_command_takes_the_run_and_the_first_ends_at_once(
        self, walker_shards: Path, tmp_path: Path
    ) -> None:
        recipe = _recipe(num_steps=10_000)
        folder = tmp_path / "long"

        def second_command() -> None:
            while not read_history(folder / "history.jsonl"):
                time.sleep(0.05)
            take_over(folder)

        thread = threading.Thread(target=second_command)
        thread.start()
        with pytest.raises(TrainingError, match=r"another command.*goes on with this run"):
            train(recipe, walker_shards, tmp_path, name="long")
        thread.join()
        assert read_history(folder / "history.jsonl")[-1]["step"] < 9000


class TestWhatADiskDoes:
    @pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 6}'])
    def test_a_damaged_mark_of_the_end_is_written_again(
        self, trained, tmp_path: Path, content: str
    ) -> None:
        from raygait.training.launch import _finished

        assert _finished(trained[0] / "two") == trained[1].checkpoint
        (tmp_path / "finished.json").write_text(content)
        assert _finished(tmp_path) is None

    @pytest.mark.parametrize("name", ["recipe.json", "data.json"])
    @pytest.mark.parametrize("content", ["", "{", "[]"])
    def test_a_damaged_claim_is_named(
        self, trained, walker_shards: Path, tmp_path: Path, name: str, content: str
    ) -> None:
        (tmp_path / "two").mkdir()
        for kept in ("recipe.json", "data.json"):
            shutil.copy(trained[0] / "two" / kept, tmp_path / "two")
        (tmp_path / "two" / name).write_text(content)
        with pytest.raises(TrainingError, match=f"{name} is damaged.*delete"):
            train(_recipe(), walker_shards, tmp_path, name="two", num_workers=2)

    def test_a_full_disk_ends_the_run_once_and_with_room_it_goes_on(
        self, walker_shards: Path, tmp_path: Path
    ) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can only be made by root")
        try:
            recipe = _recipe(num_steps=20, checkpoint_every_steps=1, keep_every_steps=1)
            with pytest.raises(TrainingError, match=r"No space left on device.*same command"):
                train(recipe, walker_shards, disk, name="run")
            assert not _events(disk / "run")  # it was not tried again
            last, path = list(list_checkpoints(disk / "run").items())[-1]
            assert 1 < last < 19
            assert not damage_of(path)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            result = train(recipe, walker_shards, disk, name="run")
            assert _events(disk / "run") == [f"goes on from {path.name} on 1 worker"]
            assert [point["step"] for point in result.history] == list(range(1, 21))
        finally:
            subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("out", ["s3://bucket/runs", "gs://bucket", "hdfs://node:8020/runs"])
def test_an_address_is_refused_and_makes_no_folder(
    walker_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="runs are kept in folders, not at addresses"):
        train(_recipe(), walker_shards, Path(out), name="n")
    assert not list(tmp_path.iterdir())

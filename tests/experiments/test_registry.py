import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from raygait.errors import RegistryError
from raygait.experiments import registry, tracking
from raygait.experiments.resolve import resolve_model
from raygait.recipes import named
from raygait.recipes.saved_model import SavedModel, initial_model, save_model
from raygait.recipes.schema import with_overrides


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tracking.prepare(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    recipe = with_overrides(named.recipe("gaitgl-demo"), {"model.channels": [4, 8, 8]})
    folder = tmp_path_factory.mktemp("model")
    saved = initial_model(recipe, ["001", "002"])
    save_model(folder, saved.network, recipe, saved.subjects, step=3)
    return saved, folder


@pytest.fixture(scope="module")
def version(uri: str, model) -> registry.ModelVersion:
    run = tracking.open_run(uri, "tests", "register")
    with tracking.closing(run):
        return registry.register(model[1], "gait", run=run, alias="champion", tags={"rank1": "50"})


def _frames(num: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num, length, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize(("num", "length"), [(1, 9), (2, 12), (5, 31)])
def test_a_version_loaded_by_alias_embeds_any_batch_and_length_as_the_model_did(
    uri: str, model, version, num: int, length: int
) -> None:
    loaded = registry.load("models:/gait@champion", uri)
    frames = _frames(num, length)
    np.testing.assert_array_equal(loaded.embed(frames), model[0].embed(frames))


def test_mlflow_alone_loads_and_runs_the_version_and_checks_its_input(
    uri: str, model, version
) -> None:
    with tracking.using(uri):
        pyfunc = mlflow.pyfunc.load_model(version.uri)
    frames = _frames(2, 10)
    np.testing.assert_array_equal(pyfunc.predict(frames), model[0].embed(frames))
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        pyfunc.predict(_frames(2, 10)[..., :20])


def test_a_fresh_process_without_the_checkout_loads_the_version_from_its_own_code(
    uri: str, model, version, tmp_path: Path
) -> None:
    frames = _frames(1, 10)
    np.save(tmp_path / "frames.npy", frames)
    script = (
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri({uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/gait@champion')\n"
        "np.save('embedded.npy', model.predict(np.load('frames.npy')))\n"
        "import raygait; print(raygait.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "raygait" in done.stdout
    assert str(Path(__file__).parents[2]) not in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "embedded.npy"), model[0].embed(frames))


def test_a_stored_version_holds_no_pickle(uri: str, version) -> None:
    with tracking.using(uri):
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.uri))
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".bin"))]


def test_the_alias_moves_to_the_next_version(uri: str, model, version) -> None:
    run = tracking.open_run(uri, "tests", "again")
    with tracking.closing(run):
        newer = registry.register(model[1], "moving", run=run, alias="champion")
        newest = registry.register(model[1], "moving", run=run, alias="champion")
    assert (newer.version, newest.version) == (1, 2)
    found = run.client().get_model_version_by_alias("moving", "champion")
    assert int(found.version) == 2
    assert found.tags["input"] == "32x22"


@pytest.mark.parametrize(
    "name", ["models:/nobody@champion", "models:/gait@nobody", "models:/gait/9"]
)
def test_a_version_that_is_not_there_is_an_error_that_names_it(uri: str, version, name) -> None:
    with pytest.raises(RegistryError, match=name):
        registry.load(name, uri)


def test_registering_leaves_the_status_of_the_run_as_it_was(uri: str, model) -> None:
    run = tracking.open_run(uri, "tests", "failed")
    run.end("FAILED")
    registry.register(model[1], "of-a-failed-run", run=run)
    assert run.client().get_run(run.run_id).info.status == "FAILED"


def test_looking_for_a_model_touches_nothing_that_is_there(uri: str, tmp_path: Path) -> None:
    (tmp_path / "registered").mkdir()
    (tmp_path / "registered" / "mine.txt").write_text("mine")
    with pytest.raises(RegistryError):
        resolve_model("models:/nobody@x", tracking_uri=uri, scratch=tmp_path)
    assert (tmp_path / "registered" / "mine.txt").read_text() == "mine"


def test_a_folder_that_is_no_model_cannot_be_registered(uri: str, tmp_path: Path) -> None:
    run = tracking.open_run(uri, "tests", "nothing")
    with pytest.raises(RegistryError, match="not a saved model"):
        registry.register(tmp_path, "gait", run=run)

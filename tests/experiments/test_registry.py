import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from torch import Tensor, nn

from raygait.errors import ModelInputError, RegistryError
from raygait.experiments import registry, tracking
from raygait.experiments.resolve import pin_version, resolve_model
from raygait.models import MODELS, Branch, GaitOutput
from raygait.recipes import named
from raygait.recipes.options import MODEL_OPTIONS, options_of
from raygait.recipes.saved_model import SavedModel, initial_model, save_model
from raygait.recipes.schema import from_dict, with_overrides


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


def test_an_alias_is_pinned_to_the_version_that_it_points_to(uri: str, version, tmp_path) -> None:
    pinned = f"models:/gait/{version.version}"
    assert pin_version("models:/gait@champion", tracking_uri=uri) == pinned
    for other in (pinned, str(tmp_path / "a@b")):
        assert pin_version(other, tracking_uri=uri) == other
    with pytest.raises(RegistryError, match="cannot find models:/gait@nobody"):
        pin_version("models:/gait@nobody", tracking_uri=uri)


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


class _Cutting(nn.Module):
    """Weighs colours by ratios, under a mask that it makes, or is given if it makes none."""

    def __init__(
        self,
        num_subjects: int,
        *,
        makes_masks: bool = True,
        in_channels: int = 3,
        input_size_px: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        self.makes_masks = makes_masks
        self.num_subjects, self.input_size_px = num_subjects, input_size_px
        self.linear = nn.Linear(in_channels, 5)

    def forward(
        self, frames: Tensor, *, ratios: Tensor | None = None, masks: Tensor | None = None
    ) -> GaitOutput:
        if self.makes_masks:
            masks = (frames.mean(1, keepdim=True) > 0.5).float()
        if ratios is None or masks is None:
            raise ModelInputError("cutting: got frames alone, expected ratios and masks")
        colours = (frames * masks).mean((3, 4)) * ratios[:, None]
        embedding = self.linear(colours.mean(2))[:, None]
        return GaitOutput(embedding, {"main": Branch(embedding, None)})


@pytest.mark.parametrize("makes_masks", [True, False])
def test_a_version_with_several_inputs_names_those_that_it_needs(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makes_masks: bool
) -> None:
    monkeypatch.setitem(MODELS, "cutting", _Cutting)
    monkeypatch.setitem(MODEL_OPTIONS, "cutting", options_of("cutting", _Cutting))
    recipe = from_dict(
        {
            "name": "cutting",
            "model": {"architecture": "cutting", "makes_masks": makes_masks},
            "data": {"modality": "rgb", "height_px": 32, "width_px": 32},
        }
    )
    saved = initial_model(recipe, ["001", "002"])
    save_model(tmp_path, saved.network, recipe, saved.subjects, step=0)
    run = tracking.open_run(uri, "tests", "several inputs")
    name = f"cutting-{makes_masks}"
    with tracking.closing(run):
        version = registry.register(tmp_path, name, run=run, alias="champion")
    with tracking.using(uri):
        pyfunc = mlflow.pyfunc.load_model(version.uri)
    generator = np.random.default_rng(0)
    inputs = {
        "frames": generator.integers(0, 256, (3, 5, 128, 128, 3), dtype=np.uint8),
        "ratios": generator.uniform(0.3, 0.7, (3, 5)).astype(np.float32),
        "masks": generator.integers(0, 2, (3, 5, 128, 128), dtype=np.uint8) * np.uint8(255),
    }
    expected = {"frames", "ratios"} if makes_masks else set(inputs)
    assert set(pyfunc.metadata.signature.inputs.input_names()) == expected
    needed = {name: inputs[name] for name in sorted(expected)}
    found = pyfunc.predict(needed)
    np.testing.assert_array_equal(found, saved.embed(inputs))
    assert not np.allclose(found, saved.embed({**inputs, "ratios": inputs["ratios"] + 1}))
    with pytest.raises(mlflow.exceptions.MlflowException, match="ratios"):
        pyfunc.predict({"frames": inputs["frames"]})
    assert run.client().get_model_version(name, 1).tags["modality"] == "rgb"


def test_an_example_of_other_inputs_cannot_be_registered(uri: str, model) -> None:
    run = tracking.open_run(uri, "tests", "wrong example")
    with tracking.closing(run), pytest.raises(ModelInputError, match="expected frames, got"):
        registry.register(model[1], "gait", run=run, example={"joints": np.zeros((1, 1, 17, 3))})

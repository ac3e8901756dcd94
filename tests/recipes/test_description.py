import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygait.errors import ModelInputError, RecipeError
from raygait.models import MODELS
from raygait.models.layers import PerFrame
from raygait.recipes.description import (
    PRINTED,
    Setup,
    describe,
    example_inputs,
    frames_seen,
    names,
    printed_for,
    run_clip,
    setup_of,
    stage_parameters,
)
from raygait.recipes.options import MODEL_OPTIONS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other ten times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(num_frames: int = 7, **switches: Any) -> Setup:
    options = {"channels": (2, 3, 3), **switches}
    return Setup(
        MODEL_OPTIONS["gaitgl"].model_validate(options),
        num_subjects=5,
        num_frames=num_frames,
        input_size_px=(8, 12),
    )


class Chain(nn.Module):
    """Modules in a row, each a stage, on clips of one channel and 4 x 4 px."""

    def __init__(self, *stages: nn.Module, in_channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList(stages)
        self.in_channels = in_channels
        self.input_size_px = (4, 4)
        self.min_frames = 1

    def named_stages(self) -> dict[str, nn.Module]:
        return {str(number): stage for number, stage in enumerate(self.stages)}

    def forward(self, frames: Tensor) -> Tensor:
        for stage in self.stages:
            frames = stage(frames)
        return frames


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Any:
        return self.function(features)


def convolution(kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
    padding = (dilation * (kernel // 2), 0, 0) if stride == 1 else 0
    return nn.Conv3d(
        1, 1, (kernel, 1, 1), (stride, 1, 1), padding, dilation=(dilation, 1, 1), bias=False
    )


class TestFramesSeen:
    @pytest.mark.parametrize(
        ("stages", "expected"),
        [
            pytest.param([convolution(1), convolution(3), convolution(5)], [1, 3, 7], id="grows"),
            # After a stride of 3 a neighbour is 3 frames away: 3 + 2 * 3.
            pytest.param([convolution(3, stride=3), convolution(3)], [3, 9], id="strides"),
            pytest.param([convolution(3, dilation=4)], [9], id="holes-count"),
            pytest.param([convolution(41)], [41], id="longer-than-the-first-clip"),
            pytest.param([PerFrame(nn.Conv2d(1, 2, 3, 1, 1))], [1], id="each-frame-by-itself"),
            pytest.param([nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0))], [3], id="a-maximum"),
            pytest.param(
                [Apply(lambda x: x - x.mean(dim=2, keepdim=True)), convolution(3)],
                ["all", "all"],
                id="a-mean-over-the-clip",
            ),
            pytest.param([Apply(lambda x: x.amax(dim=2)), nn.ReLU()], ["all", "all"], id="pooled"),
            pytest.param(
                [convolution(3), Apply(lambda x: x.mean(dim=-1).transpose(1, 3))],
                [3, 3],
                id="the-axis-of-frames-moves",
            ),
            pytest.param(
                [convolution(3), Apply(lambda x: x.transpose(1, 2).flatten(0, 1))],
                [3, 3],
                id="frames-in-the-batch",
            ),
            pytest.param([convolution(3), Apply(lambda x: (x, x.sum()))], [3, 3], id="a-tuple"),
            pytest.param([Apply(lambda x: x.round().detach())], [None], id="no-gradient"),
        ],
    )
    def test_of_networks_whose_answer_is_known(
        self, stages: list[nn.Module], expected: list[object]
    ) -> None:
        for stage in stages:
            for parameter in stage.parameters():
                nn.init.constant_(parameter, 0.1)
        assert list(frames_seen(Chain(*stages).eval()).values()) == expected

    def test_a_look_at_the_past_alone_is_counted_as_it_is(self) -> None:
        past = Apply(lambda x: nn.functional.pad(x, (0, 0, 0, 0, 6, 0)))
        last = convolution(7)
        last.padding = (0, 0, 0)
        assert list(frames_seen(Chain(past, last).eval()).values()) == [1, 7]

    def test_they_do_not_depend_on_the_width_of_the_frames(self) -> None:
        # `describe` measures them on frames of 8 columns, here beside the 12 of the network.
        setup = small()
        wide = frames_seen(setup.build())
        described = {stage.name: stage.frames_seen for stage in describe(setup).stages}
        assert described == wide
        # Stage 1 and its pooling, 3 and 3 frames with stride 3; from then on 3 frames a step.
        assert list(wide.values()) == [3, 5, 11, 11, 17, 23, "all", "all"]


class TestCost:
    def test_multiply_adds_of_a_network_by_hand(self) -> None:
        # 7 frames of 8 x 12 px; in evaluation a layer convolves once whole and twice masked.
        found = describe(small())
        first = 3 * 27 * 1 * 2 * 7 * 96
        lta = 27 * 2 * 2 * 2 * 96
        second = 3 * 27 * 2 * 3 * 2 * 96
        third = 3 * 27 * 3 * 3 * 2 * 24
        linear = 8 * 3 * 3
        assert [stage.multiply_adds for stage in found.stages] == [
            *(first, lta, second, 0, third, third, 0, linear)
        ]
        logits = 8 * 3 * 5
        assert found.multiply_adds == sum((first, lta, second, third, third, linear, logits))

    @pytest.mark.parametrize("gradient", [False, True])
    def test_attention_counts_whichever_kernel_would_run_it(self, gradient: bool) -> None:
        # d = 16, 4 x 4 px as tokens: query, key, value and output; two products of 16 tokens; FFN.
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        chain = Chain(Apply(lambda x: x[:, :, 0].flatten(2).transpose(1, 2)), layer, in_channels=16)
        with torch.set_grad_enabled(gradient):
            clip = run_clip(chain.eval(), 3)
        assert clip.multiply_adds == 4 * 16 * 16 * 16 + 2 * 16 * 16 * 16 + 2 * 16 * 16 * 32
        assert clip.stage_multiply_adds == {"0": 0, "1": clip.multiply_adds}
        assert torch.backends.mha.get_fastpath_enabled()

    def test_cost_grows_with_the_clip_and_parameters_do_not(self) -> None:
        short, long = describe(small(num_frames=9)), describe(small(num_frames=18))
        assert long.num_parameters == short.num_parameters
        stage = "stage 2 layer 1"
        costs = [{s.name: s.multiply_adds for s in found.stages}[stage] for found in (short, long)]
        assert costs[1] == 2 * costs[0]

    def test_parameters_by_stage_and_by_group_add_up(self) -> None:
        found = describe(small())
        assert [stage.num_parameters for stage in found.stages] == [
            *(2 * 27 * 2, 27 * 4, 2 * 27 * 6, 0, 2 * 27 * 9, 2 * 27 * 9, 1, 8 * 9)
        ]
        assert sum(found.groups.values()) == found.num_parameters
        beside = 2 * 3 + 8 * 3 * 5  # norm and logits, which are no stages
        assert sum(stage.num_parameters for stage in found.stages) + beside == found.num_parameters

    def test_parameters_that_two_stages_share_count_once(self) -> None:
        shared = convolution(3)
        chain = Chain(nn.Sequential(shared), nn.Sequential(shared, convolution(5)))
        assert stage_parameters(chain) == {"0": 3, "1": 5}
        assert run_clip(chain.eval(), 5).stage_multiply_adds == {"0": 5 * 48, "1": 5 * 16 * 8}


class TestShapes:
    def test_shapes_are_those_of_one_clip(self) -> None:
        found = describe(small())
        shapes = {stage.name: stage.shapes for stage in found.stages}
        assert shapes["stage 1 layer 1"] == ((1, 2, 7, 8, 12),)
        assert shapes["stage 2 pooling"] == ((1, 3, 2, 4, 6),)
        assert shapes["stage 3 layer 2"] == ((1, 3, 2, 8, 6),)
        assert found.clip_shape == (1, 7, 8, 12)
        assert found.outputs == {
            "embedding": (1, 8, 3),
            "main triplet features": (1, 8, 3),
            "main logits": (1, 8, 5),
        }

    def test_a_stage_that_returns_several_tensors_shows_all(self) -> None:
        nested = Apply(lambda x: {"a": x, "b": [x[0], (x[0, 0], None)]})
        assert run_clip(Chain(nested).eval(), 2).shapes["0"] == (
            *((1, 1, 2, 4, 4), (1, 2, 4, 4), (2, 4, 4)),
        )


class TestExampleInputs:
    def test_frames_are_as_the_model_says_and_the_same_each_time(self) -> None:
        model = SimpleNamespace(in_channels=3, input_size_px=(6, 5), forward=lambda frames: frames)
        frames, others = example_inputs(model, 4)  # type: ignore[arg-type]
        assert frames.shape == (1, 3, 4, 6, 5)
        assert 0 <= float(frames.min()) < float(frames.max()) <= 1
        assert others == {}
        assert torch.equal(example_inputs(model, 4)[0], frames)  # type: ignore[arg-type]

    def test_what_has_no_default_is_made_and_what_has_one_is_left_out(self) -> None:
        def forward(frames: Tensor, *, joints: Tensor, ratios: Tensor, masks: None = None) -> None:
            """Takes more than frames."""

        model = SimpleNamespace(in_channels=2, input_size_px=(64, 48), forward=forward)
        _, others = example_inputs(model, 4)  # type: ignore[arg-type]
        assert {name: tuple(value.shape) for name, value in others.items()} == {
            "joints": (1, 4, 17, 3),
            "ratios": (1, 4),
        }
        x, y, score = others["joints"].unbind(-1)
        assert bool(((x > 0) & (x < 48) & (y > 0) & (y < 64) & (score == 1)).all())
        shoulders, hips = y[..., 5:7].mean(), y[..., 11:13].mean()
        assert float(shoulders) < float(hips)

    def test_masks_have_an_inside_and_an_outside(self) -> None:
        def forward(frames: Tensor, *, masks: Tensor) -> None:
            """Takes masks."""

        model = SimpleNamespace(in_channels=3, input_size_px=(16, 16), forward=forward)
        masks = example_inputs(model, 2)[1]["masks"]  # type: ignore[arg-type]
        assert masks.shape == (1, 1, 2, 16, 16)
        assert 0 < float(masks.mean()) < 1

    def test_an_unknown_input_is_named(self) -> None:
        def forward(frames: Tensor, *, weather: Tensor) -> None:
            """Takes what nobody knows."""

        model = SimpleNamespace(in_channels=1, input_size_px=(4, 4), forward=forward)
        with pytest.raises(TypeError, match="'weather'"):
            example_inputs(model, 2)  # type: ignore[arg-type]


class TestSetups:
    def test_an_architecture_has_its_own_defaults(self) -> None:
        setup = setup_of("gaitgl")
        assert setup == Setup(MODEL_OPTIONS["gaitgl"].model_validate({}), 74, 30, 1, (64, 44))

    def test_a_recipe_has_its_own_clip_and_subjects(self) -> None:
        setup = setup_of("gaitgl-demo")
        assert (setup.num_subjects, setup.num_frames) == (32, 15)
        assert setup.input_size_px == (32, 22)
        assert setup.options.switches()["channels"] == (16, 32, 32)
        assert setup_of("gaitgl-casiab").num_subjects == 74
        assert setup_of("gaitgl-oumvlp").num_subjects == 5153
        assert setup_of("gaitgl-gait3d").num_subjects == 3000
        assert setup_of("gaitedge-ttg200").num_subjects == 120

    def test_every_name_is_of_something(self) -> None:
        assert {"gaitgl", "gaitgl-casiab", "gaitgl-demo"} <= set(names())
        for name in names():
            assert setup_of(name).options.architecture in MODELS

    def test_an_unknown_name_is_refused_with_those_that_are_known(self) -> None:
        with pytest.raises(RecipeError, match=r"'gaitset2'.*'gaitgl-demo'"):
            setup_of("gaitset2")

    def test_switches_that_do_not_fit_are_refused_in_the_model_s_words(self) -> None:
        with pytest.raises(RecipeError, match=r"gaitgl: channels .* one entry per stage"):
            describe(small(channels=(2, 3)))

    def test_a_clip_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(ModelInputError, match="got clips of 2 frames"):
            describe(small(num_frames=2))


class TestPrinted:
    def test_table_9_of_lmgcs_closes(self) -> None:
        # 13.67 M and 16 x 256 x 256 weights a branch: a slip of the hand would not fit.
        rows = [row for row in PRINTED if row.source == "LMGCS Table IX"]
        assert len(rows) == 7
        for row in rows:
            branches = len(row.switches["scales"])
            expected = (14_719_840 + (branches - 1) * 16 * 256 * 256) / 1e6
            assert row.figures["parameters"] == f"{expected:.2f} M"

    def test_the_row_of_the_same_switches_is_marked_and_no_other(self) -> None:
        class LMGCS(nn.Module):
            def __init__(
                self,
                num_subjects: int,
                *,
                scales: tuple[int, ...] = (1, 3, 5),
                mff: str = "static_ascending",
                embedding_dim: int = 256,
            ) -> None: ...

        def marked(**switches: Any) -> list[str]:
            given: dict[str, Any] = {
                "scales": [1, 3, 5],
                "mff": "static_ascending",
                "embedding_dim": 256,
            }
            rows = printed_for(LMGCS, given | switches)
            assert len(rows) == 10
            return [row.row for row, same in rows if same]

        assert marked() == ["fine, medium, coarse", "static, s = 1 to s = 5"]
        assert marked(scales=(3,)) == ["medium"]
        assert marked(mff="attention") == ["attention"]
        assert marked(embedding_dim=128) == []

    def test_printed_switches_are_arguments_of_their_class(self) -> None:
        classes = {model.__name__: model for model in MODELS.values()}
        for row in PRINTED:
            if row.model in classes:
                assert set(row.switches) <= set(inspect.signature(classes[row.model]).parameters)

    def test_a_network_that_no_paper_measures_has_no_rows(self) -> None:
        assert describe(small()).printed == ()


class TestReport:
    def test_it_survives_json(self) -> None:
        found = describe(small())
        values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert values == found.to_dict()
        assert values["arguments"]["channels"] == [2, 3, 3]
        assert [stage["frames_seen"] for stage in values["stages"]][-1] == "all"

    def test_the_text_has_a_line_for_every_stage_group_and_result(self) -> None:
        found = describe(small())
        text = found.to_text()
        lines = text.splitlines()
        assert lines[0] == ("GaitGL for 5 subjects; one clip of 7 frames, 8 x 12 px, 1 channel")
        for name in (*(stage.name for stage in found.stages), *found.groups, *found.outputs):
            assert any(line.startswith(name) for line in lines), name
        (total,) = [line for line in lines if line.startswith("total")]
        assert total.split() == ["total", f"{found.num_parameters:,}", "0.3"]
        assert all(len(line) <= 100 for line in lines)


def _one_name_a_network() -> list[str]:
    """Many recipes are of one network but for the classifier; seconds for each are enough."""
    by_setup = {
        json.dumps({**setup_of(name).arguments(), "num_subjects": 0}, sort_keys=True): name
        for name in names()
    }
    return sorted(by_setup.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", _one_name_a_network())
def test_every_architecture_and_recipe_can_be_described(name: str) -> None:
    setup = dataclasses.replace(setup_of(name), num_subjects=74)
    found = describe(setup)
    order: list[str] = []
    model = setup.build()
    for stage_name, stage in model.named_stages().items():
        stage.register_forward_hook(lambda *_, name=stage_name: order.append(name))
    frames, others = example_inputs(model, model.min_frames)
    with torch.no_grad():
        model(frames, **others)
    assert order == [stage.name for stage in found.stages]
    assert sum(found.groups.values()) == found.num_parameters
    assert found.multiply_adds > 0
    # A U-Net that has learnt nothing may see nobody, and then nothing comes back to the frames.
    if setup.options.architecture != "gaitedge":
        assert None not in [stage.frames_seen for stage in found.stages]

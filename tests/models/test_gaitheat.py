import inspect
import itertools
import json
import math
from typing import Any, get_type_hints

import docstring_parser
import pytest
import torch
from torch import Tensor, nn

from raygait.errors import ModelInputError
from raygait.losses.identity import IdentityLoss
from raygait.losses.triplet import TripletLoss
from raygait.models.gaitheat import (
    GaitHeat,
    PoseGuidedAlignment,
    alignment_matrix,
    fuse,
    max_response,
    normalise_clips,
    peaks,
    rotation_about,
    sample,
    spine_angle,
    transform,
)
from raygait.models.output import GaitOutput

SHOULDERS, HIPS = [5, 6], [11, 12]
BRANCHES = ["global", "local", "fusion"]


def small(num_subjects: int = 5, **switches: Any) -> GaitHeat:
    """A network of 16 x 12 px maps, small enough for loops; seeded, so that switches compare."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": (2, 3, 4, 3),
        "num_parts": 2,
        "embedding_dim": 3,
        "align_to_px": (6.0, 4.0),
        "input_size_px": (16, 12),
    }
    return GaitHeat(num_subjects, **(options | switches))


def clips(n: int = 2, t: int = 3, h: int = 16, w: int = 12, c: int = 17, seed: int = 0) -> Tensor:
    return torch.rand(n, c, t, h, w, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# A body for the 64 x 48 maps: COCO's joints of a person who stands upright, in pixels from the
# middle of the hips, y down. Left and right differ, so that a mirrored result would be seen.
BODY = torch.tensor(
    [
        [0, -26], [1, -27], [-1, -27], [2, -26], [-3, -26],
        [5, -20], [-5, -20], [7, -12], [-8, -11], [8, -5], [-9, -3],
        [3, 0], [-3, 0], [4, 9], [-3, 10], [5, 18], [-4, 19],
    ],
    dtype=torch.float64,
)  # fmt: skip


def leaning_body(angle_deg: float, hip: tuple[float, float]) -> Tensor:
    """The body turned clockwise on the screen about its hip, as [17, 3] joints of score 1."""
    angle = math.radians(angle_deg)
    x = BODY[:, 0] * math.cos(angle) - BODY[:, 1] * math.sin(angle) + hip[0]
    y = BODY[:, 0] * math.sin(angle) + BODY[:, 1] * math.cos(angle) + hip[1]
    return torch.stack((x, y, torch.ones_like(x)), dim=-1)


def blobs(joints: Tensor, h: int = 64, w: int = 48, sigma_px: float = 2.0) -> Tensor:
    """A Gaussian peak of height 1 at each joint of [n, t, 17, 3]: maps [n, 17, t, h, w]."""
    rows, columns = torch.arange(h)[:, None], torch.arange(w)[None, :]
    x, y = joints[..., 0, None, None], joints[..., 1, None, None]
    maps = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma_px**2))
    return (maps * joints[..., 2, None, None]).transpose(1, 2).to(joints.dtype)


def centres(frames: Tensor) -> Tensor:
    """Centre of mass of each map: [n, t, 17, 2], finer than the place of the highest value."""
    maps = frames.transpose(1, 2)
    rows, columns = torch.arange(frames.shape[3]), torch.arange(frames.shape[4])
    mass = maps.sum(dim=(-1, -2))
    x = (maps.sum(dim=-2) * columns).sum(-1) / mass
    y = (maps.sum(dim=-1) * rows).sum(-1) / mass
    return torch.stack((x, y), dim=-1)


def spine_of(points: Tensor) -> tuple[Tensor, Tensor]:
    return points[..., SHOULDERS, :2].mean(dim=-2), points[..., HIPS, :2].mean(dim=-2)


# Literal transcriptions: loops over pixels, kernel positions and maps, nothing shared with the
# room but the weights.


def literal_matrix(
    neck: tuple[float, float], hip: tuple[float, float], target: tuple[float, float]
) -> Tensor:
    """Eq. 1-3 in plain numbers, then inverse(M_R) M_T by a general inverse."""
    theta = math.atan2(neck[0] - hip[0], -(neck[1] - hip[1]))
    mid = ((neck[0] + hip[0]) / 2, (neck[1] + hip[1]) / 2)
    cos, sin = math.cos(-theta), math.sin(-theta)
    rotation = torch.tensor(
        [
            [cos, -sin, (1 - cos) * mid[0] + sin * mid[1]],
            [sin, cos, -sin * mid[0] + (1 - cos) * mid[1]],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )
    turned = rotation @ torch.tensor([*neck, 1], dtype=torch.float64)
    bias = torch.tensor(target, dtype=torch.float64) - turned[:2]
    translation = torch.eye(3, dtype=torch.float64)
    translation[:2, 2] = -bias
    return (torch.linalg.inv(rotation) @ translation)[:2]


def literal_sample(image: Tensor, matrix: Tensor, padding: str) -> Tensor:
    """Eq. 4 for one map [h, w], pixel by pixel."""
    height, width = image.shape

    def value(column: int, row: int) -> Tensor:
        if padding == "border":
            return image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column] if inside else image.new_zeros(())

    rows = []
    for y_t in range(height):
        for x_t in range(width):
            x, y = (matrix @ torch.tensor([x_t, y_t, 1], dtype=torch.float64)).tolist()
            if padding == "border":
                x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            left, top = math.floor(x), math.floor(y)
            right_share, low_share = x - left, y - top
            rows.append(
                (1 - low_share) * (1 - right_share) * value(left, top)
                + (1 - low_share) * right_share * value(left + 1, top)
                + low_share * (1 - right_share) * value(left, top + 1)
                + low_share * right_share * value(left + 1, top + 1)
            )
    return torch.stack(rows).view(height, width)


def literal_convolution(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    m, _, h, w = x.shape
    d, _, ky, kx = weight.shape
    padded = x.new_zeros(m, x.shape[1], h + 2 * (ky // 2), w + 2 * (kx // 2))
    padded[:, :, ky // 2 : ky // 2 + h, kx // 2 : kx // 2 + w] = x
    rows, columns = -(-h // stride), -(-w // stride)
    result = x.new_zeros(m, d, rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        seen = padded[:, :, i * stride : i * stride + ky, j * stride : j * stride + kx]
        result[:, :, i, j] = torch.einsum("mcyx,dcyx->md", seen, weight)
    return result


def literal_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm in training mode, over all dimensions but the second."""
    others = [dim for dim in range(x.ndim) if dim != 1]
    mean = x.mean(dim=others, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=others, keepdim=True)
    shape = [1, -1] + [1] * (x.ndim - 2)
    scaled = (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"].view(shape)
    return scaled + weights[f"{name}.bias"].view(shape)


def literal_block(x: Tensor, weights: dict[str, Tensor], name: str, stride: int) -> Tensor:
    inner = literal_convolution(x, weights[f"{name}.convolution1.weight"], stride=stride)
    inner = literal_norm(inner, weights, f"{name}.norm1").clamp(min=0)
    inner = literal_convolution(inner, weights[f"{name}.convolution2.weight"])
    inner = literal_norm(inner, weights, f"{name}.norm2")
    if f"{name}.shortcut.0.weight" in weights:
        x = literal_convolution(x, weights[f"{name}.shortcut.0.weight"], stride=stride)
        x = literal_norm(x, weights, f"{name}.shortcut.1")
    return (inner + x).clamp(min=0)


def literal_head(maps: Tensor, weights: dict[str, Tensor], name: str, p: int) -> list[Tensor]:
    """[n, t, c, h, w] -> features before and after the norm, and cosines."""
    shown = maps[:, 0]
    for frame in range(1, maps.shape[1]):
        shown = torch.maximum(shown, maps[:, frame])
    rows = shown.shape[2] // p
    mapped = []
    for part in range(p):
        strip = shown[:, :, part * rows : (part + 1) * rows].flatten(2)
        vector = strip.mean(dim=-1) + strip.max(dim=-1).values
        mapped.append(vector @ weights[f"heads.{name}.linear.weight"][part])
    before = torch.stack(mapped, dim=1)
    after = literal_norm(before.flatten(1), weights, f"heads.{name}.neck.norm").view_as(before)
    after = after / after.norm(dim=-1, keepdim=True)
    cosines = []
    for part in range(p):
        subjects = weights[f"heads.{name}.neck.identity_linear.weight"][part]
        cosines.append(after[:, part] @ (subjects / subjects.norm(dim=0)))
    return [before, after, torch.stack(cosines, dim=1)]


def literal_gaitheat(model: GaitHeat, frames: Tensor) -> dict[str, list[Tensor]]:
    """Eq. 5-8 without alignment, in training mode."""
    weights = dict(model.named_parameters())
    n, v, t = frames.shape[:3]
    low, high = frames.flatten(1).min(dim=1).values, frames.flatten(1).max(dim=1).values
    shown = [[[(frames[i, j, s] - low[i]) / (high[i] - low[i]) for s in range(t)]
              for j in range(v)] for i in range(n)]  # fmt: skip

    def largest(images: list[Tensor]) -> Tensor:
        result = images[0]
        for image in images[1:]:
            result = torch.maximum(result, image)
        return result

    maps = []
    for group in [*model.groups, range(v)]:
        for i, s in itertools.product(range(n), range(t)):
            maps.append(largest([shown[i][joint][s] for joint in group]))
    x = torch.stack(maps).unsqueeze(1)
    x = literal_convolution(x, weights["stem.network.convolution.weight"])
    x = literal_norm(x, weights, "stem.network.norm").clamp(min=0)
    fusion = torch.zeros(())
    for i, stride in enumerate((1, 2, 2, 1)):
        x = literal_block(x, weights, f"stages.{i}.network", stride)
        *local, whole = x.view(-1, n, t, *x.shape[1:])
        aggregated = largest(local)
        response = largest([*local, whole])
        if i:
            own = f"fusion_stages.{i - 1}.network"
            response = response + literal_block(fusion.flatten(0, 1), weights, own, stride).view(
                response.shape
            )
        fusion = response
    p = model.num_parts
    return {
        "global": literal_head(whole, weights, "global", p),
        "local": literal_head(aggregated, weights, "local", p),
        "fusion": literal_head(fusion, weights, "fusion", p),
    }


def assert_same(result: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The values are equal, and so are the gradients of a random weighting of them."""
    torch.testing.assert_close(result, expected)
    pull = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad((result * pull).sum(), wanted),
        torch.autograd.grad((expected * pull).sum(), wanted),
    )


SPINES = [
    ((24.0, 16.0), (24.0, 36.0)),
    ((30.5, 14.0), (22.0, 33.25)),
    ((18.0, 20.0), (25.0, 37.0)),
    ((20.0, 40.0), (26.0, 22.0)),
]


class TestEquations:
    @pytest.mark.parametrize(
        ("neck", "angle_deg"),
        [
            pytest.param((24, 16), 0, id="upright"),
            pytest.param((44, 16), 45, id="to-the-right"),
            pytest.param((4, 16), -45, id="to-the-left"),
            pytest.param((44, 36), 90, id="lying"),
            pytest.param((24, 56), 180, id="head-down"),
        ],
    )
    def test_eq1_the_angle_is_the_tilt_from_the_vertical(
        self, neck: tuple[int, int], angle_deg: float
    ) -> None:
        angle = spine_angle(torch.tensor(neck).double(), torch.tensor([24.0, 36.0]).double())
        assert float(angle.abs()) == pytest.approx(math.radians(abs(angle_deg)))
        if abs(angle_deg) < 180:
            assert float(angle) == pytest.approx(math.radians(angle_deg))

    def test_eq1_as_printed_would_call_an_upright_body_upside_down(self) -> None:
        # Why the second argument is turned round: y points down in an image.
        assert math.atan2(24 - 24, 16 - 36) == math.pi

    @pytest.mark.parametrize(("neck", "hip"), SPINES)
    def test_eq2_the_rotation_stands_the_neck_above_the_hip_and_keeps_the_middle(
        self, neck: tuple[float, float], hip: tuple[float, float]
    ) -> None:
        a, b = torch.tensor(neck).double(), torch.tensor(hip).double()
        middle = (a + b) / 2
        matrix = rotation_about(middle, -spine_angle(a, b))
        up, down = transform(matrix, a), transform(matrix, b)
        length = (a - b).norm()
        torch.testing.assert_close(transform(matrix, middle), middle)
        torch.testing.assert_close(up, middle - torch.stack((0 * length, length / 2)))
        torch.testing.assert_close(down, middle + torch.stack((0 * length, length / 2)))

    @pytest.mark.parametrize(("neck", "hip"), SPINES)
    def test_eq3_and_4_the_matrix_is_the_inverse_rotation_after_the_shift(
        self, neck: tuple[float, float], hip: tuple[float, float]
    ) -> None:
        matrix = alignment_matrix(
            torch.tensor(neck).double(), torch.tensor(hip).double(), (24.0, 16.0)
        )
        torch.testing.assert_close(matrix, literal_matrix(neck, hip, (24.0, 16.0)))
        # Where P_align comes from is the neck.
        came_from = transform(matrix, torch.tensor([24.0, 16.0]).double())
        torch.testing.assert_close(came_from, torch.tensor(neck).double())

    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_eq4_sampling_equals_a_loop_over_pixels_in_values_and_gradients(
        self, padding: Any
    ) -> None:
        maps = torch.rand(2, 2, 9, 7, dtype=torch.float64, requires_grad=True)
        matrices = torch.stack(
            [
                literal_matrix((4.5, 2.0), (2.0, 6.5), (3.0, 3.0)),
                literal_matrix((2.0, 1.0), (2.5, 7.0), (4.25, 0.5)),
            ]
        )
        expected = torch.stack(
            [
                torch.stack([literal_sample(image, matrix, padding) for image in frame])
                for frame, matrix in zip(maps, matrices, strict=True)
            ]
        )
        assert_same(sample(maps, matrices, padding), expected, [maps])

    def test_eq4_the_identity_gives_the_input_back(self) -> None:
        maps = torch.rand(3, 2, 64, 48)
        identity = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(3, 2, 3)
        torch.testing.assert_close(sample(maps, identity), maps, rtol=0, atol=1e-5)

    def test_eq4_samples_half_precision_at_places_of_full_precision(self) -> None:
        maps = blobs(leaning_body(20, (22, 40)).float()[None, None]).squeeze(2)
        spine = spine_of(leaning_body(20, (22, 40)).float()[None])
        matrix = alignment_matrix(*spine, (24.0, 16.0))
        exact = sample(maps, matrix)
        rounded = sample(maps.bfloat16(), matrix)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=5e-3)

    def test_eq5_fuses_groups_and_all_in_the_order_local_then_global(self) -> None:
        frames = clips(n=2, c=5).double().requires_grad_()
        groups = [(0, 3), (1,), (2, 4)]
        expected = [
            torch.maximum(frames[:, 0], frames[:, 3]),
            frames[:, 1],
            torch.maximum(frames[:, 2], frames[:, 4]),
            frames.amax(dim=1),
        ]
        assert_same(fuse(frames, groups), torch.cat(expected).unsqueeze(1), [frames])

    @pytest.mark.parametrize(
        "partitions", [(0,) * 17, (0,) * 11 + (1,) * 6, tuple(i % 5 for i in range(17))]
    )
    def test_eq5_the_maximum_over_partitions_is_the_global_map(
        self, partitions: tuple[int, ...]
    ) -> None:
        model = small(partitions=partitions)
        frames = clips()
        *local, whole = fuse(frames, model.groups).chunk(len(model.groups) + 1)
        assert len(local) == max(partitions) + 1
        assert torch.equal(torch.stack(local).amax(dim=0), whole)
        assert torch.equal(whole.squeeze(1), frames.amax(dim=1))

    def test_eq7_is_the_maximum_place_by_place(self) -> None:
        maps = [torch.randn(2, 3) for _ in range(4)]
        assert torch.equal(max_response(maps), torch.stack(maps).amax(dim=0))
        assert torch.equal(max_response(maps[:1]), maps[0])

    @pytest.mark.parametrize("recompute", [False, True])
    @pytest.mark.parametrize("partitions", [(0,) * 17, (0,) * 11 + (1,) * 6, (0, 1, 2) + (1,) * 14])
    def test_eq5_to_8_the_whole_network_equals_its_transcription_in_values_and_gradients(
        self, partitions: tuple[int, ...], recompute: bool
    ) -> None:
        model = small(
            alignment=False, partitions=partitions, input_size_px=(8, 8), recompute=recompute
        ).double()
        frames = clips(n=3, t=2, h=8, w=8).double().requires_grad_()
        output = model(frames)
        expected = literal_gaitheat(model, frames)
        assert list(output.branches) == BRANCHES
        torch.testing.assert_close(output.embedding, expected["fusion"][1])
        loss, literal_loss = torch.zeros(()), torch.zeros(())
        generator = torch.Generator().manual_seed(1)
        for name, branch in output.branches.items():
            before, _, cosines = expected[name]
            torch.testing.assert_close(branch.triplet_features, before)
            torch.testing.assert_close(branch.logits, cosines)
            assert branch.logits is not None
            for ours, theirs in [(branch.triplet_features, before), (branch.logits, cosines)]:
                pull = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
                loss = loss + (ours * pull).sum()
                literal_loss = literal_loss + (theirs * pull).sum()
        wanted = [frames, *model.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad(loss, wanted), torch.autograd.grad(literal_loss, wanted)
        )

    def test_eq8_the_fusion_branch_has_weights_of_its_own(self) -> None:
        model = small(alignment=False)
        before = model.train()(clips())
        with torch.no_grad():
            for parameter in model.fusion_stages.parameters():
                parameter.mul_(1.5).add_(0.1)
        after = model(clips())
        for name in ("global", "local"):
            assert torch.equal(
                before.branches[name].triplet_features, after.branches[name].triplet_features
            )
        assert not torch.allclose(before.embedding, after.embedding, atol=1e-3)


def aligned(
    joints: Tensor, *, draws: Tensor | None = None, training: bool = False, **options: Any
) -> tuple[Tensor, Tensor]:
    """Blobs at joints [n, t, 17, 3] before and after PGHA."""
    frames = blobs(joints)
    module = PoseGuidedAlignment(**options).train(training)
    return frames, module(frames, joints, draws)


class TestAlignment:
    @pytest.mark.parametrize("angle_deg", [20, -20, 60, -60, 6])
    def test_a_leaning_body_comes_out_upright_with_its_neck_in_place(
        self, angle_deg: float
    ) -> None:
        # Further to the side it leans away from, so that all of it is on the map.
        joints = leaning_body(angle_deg, (24.3 - angle_deg / 8, 37.8))[None, None]
        _, result = aligned(joints)
        neck, hip = spine_of(centres(result))
        assert float(spine_angle(neck, hip).abs()) < math.radians(0.5)
        torch.testing.assert_close(
            neck[0, 0], torch.tensor([24.0, 16.0]).double(), rtol=0, atol=0.5
        )
        # Not sheared either: the spine keeps its length, the shoulders theirs and their sides.
        assert float((neck - hip).norm()) == pytest.approx(20, abs=0.2)
        shoulders = centres(result)[0, 0, SHOULDERS]
        torch.testing.assert_close(
            shoulders[0] - shoulders[1], torch.tensor([10.0, 0.0]).double(), rtol=0, atol=0.2
        )

    @pytest.mark.parametrize("angle_deg", [20, -20])
    def test_the_result_is_the_body_drawn_upright_blurred_by_one_interpolation_at_most(
        self, angle_deg: float
    ) -> None:
        joints = leaning_body(angle_deg, (22.3, 37.8))[None, None]
        _, result = aligned(joints)
        drawn = blobs(leaning_body(0, (24, 36))[None, None])
        difference = (result - drawn).abs()
        # What one bilinear interpolation takes from the peak of a Gaussian of 2 px: half a pixel
        # off in x and y that is 6 %. Two samplings one after the other would lose up to 12 %.
        assert float(difference.max()) < 0.062
        assert float(difference.sum() / drawn.sum()) < 0.06

    def test_a_body_that_stands_straight_is_left_bit_by_bit(self) -> None:
        joints = torch.stack([leaning_body(angle, (20, 30)) for angle in (0, 4.9, -4.9)])[None]
        before, after = aligned(joints)
        assert torch.equal(before, after)

    @pytest.mark.parametrize("angle_deg", [5.1, -5.1])
    def test_the_threshold_is_on_the_size_of_the_angle(self, angle_deg: float) -> None:
        joints = leaning_body(angle_deg, (20, 30))[None, None]
        before, after = aligned(joints)
        assert not torch.allclose(before, after, atol=0.1)
        before, after = aligned(joints, angle_threshold_deg=20.0)
        assert torch.equal(before, after)

    def test_only_the_frames_that_lean_move(self) -> None:
        angles = [[0.0, 20.0, 3.0], [-20.0, 0.0, 0.0]]
        joints = torch.stack(
            [torch.stack([leaning_body(angle, (20, 30)) for angle in row]) for row in angles]
        )
        before, after = aligned(joints)
        moved = (before != after).flatten(3).any(dim=3).all(dim=1)
        assert moved.tolist() == [[False, True, False], [True, False, False]]
        alone = [aligned(joints[i : i + 1, s : s + 1])[1] for i, s in [(0, 1), (1, 0)]]
        assert torch.equal(alone[0][0, :, 0], after[0, :, 1])
        assert torch.equal(alone[1][0, :, 0], after[1, :, 0])

    def test_in_training_a_draw_below_the_ratio_aligns_a_straight_body_too(self) -> None:
        joints = leaning_body(2, (20, 30))[None, None].repeat(1, 4, 1, 1)
        draws = torch.tensor([[0.0, 0.19, 0.2, 0.9]])
        before, after = aligned(joints, draws=draws, training=True)
        moved = (before != after).flatten(3).any(dim=3)[0].all(dim=0)
        assert moved.tolist() == [True, True, False, False]
        neck, _ = spine_of(centres(after)[0, 0])
        torch.testing.assert_close(neck, torch.tensor([24.0, 16.0]).double(), rtol=0, atol=0.1)

    def test_in_training_a_leaning_body_is_aligned_whatever_the_draw(self) -> None:
        joints = leaning_body(20, (20, 30))[None, None].repeat(1, 2, 1, 1)
        draws = torch.tensor([[0.0, 1.0]])
        _, after = aligned(joints, draws=draws, training=True)
        assert torch.equal(after[:, :, 0], after[:, :, 1])
        assert torch.equal(after, aligned(joints)[1])

    def test_at_test_draws_are_not_looked_at(self) -> None:
        joints = leaning_body(2, (20, 30))[None, None]
        before, after = aligned(joints, draws=torch.zeros(1, 1))
        assert torch.equal(before, after)

    def test_without_draws_a_fifth_of_the_straight_frames_moves_by_the_global_generator(
        self,
    ) -> None:
        joints = leaning_body(0, (20, 30))[None, None].repeat(10, 30, 1, 1)
        frames = torch.rand(10, 1, 30, 64, 48)
        module = PoseGuidedAlignment()
        moved = []
        for seed in (0, 1, 0):
            torch.manual_seed(seed)
            after = module(frames, joints)
            moved.append((after != frames).flatten(3).any(dim=3)[:, 0])
        assert float(moved[0].float().mean()) == pytest.approx(0.2, abs=0.07)
        assert torch.equal(moved[0], moved[2])
        assert not torch.equal(moved[0], moved[1])

    @pytest.mark.parametrize("joint", SHOULDERS + HIPS)
    def test_a_frame_in_which_a_joint_of_the_spine_was_not_found_stays(self, joint: int) -> None:
        joints = leaning_body(20, (20, 30))[None, None]
        joints[..., joint, 2] = 0
        before, after = aligned(joints, training=True, draws=torch.zeros(1, 1))
        assert torch.equal(before, after)

    def test_joints_beside_the_spine_need_no_score(self) -> None:
        joints = leaning_body(20, (20, 30))[None, None]
        others = [joint for joint in range(17) if joint not in SHOULDERS + HIPS]
        joints[..., others, 2] = 0
        before, after = aligned(joints)
        assert not torch.equal(before, after)

    @pytest.mark.parametrize("distance_px", [0.0, 0.5])
    def test_a_frame_whose_neck_and_hip_coincide_stays(self, distance_px: float) -> None:
        joints = leaning_body(0, (20, 30))[None, None]
        joints[..., SHOULDERS, :2] = torch.tensor([20 + distance_px, 30.0]).double()
        joints[..., HIPS, :2] = torch.tensor([20.0, 30.0]).double()
        before, after = aligned(joints, training=True, draws=torch.zeros(1, 1))
        assert torch.equal(before, after)

    def test_what_comes_from_outside_is_zero_or_the_border(self) -> None:
        joints = leaning_body(20, (20, 30))[None, None]
        frames = torch.ones(1, 17, 1, 64, 48)
        zeros = PoseGuidedAlignment().eval()(frames, joints.float())
        border = PoseGuidedAlignment(padding="border").eval()(frames, joints.float())
        assert float(zeros.min()) == 0
        torch.testing.assert_close(border, frames)
        inside = zeros > 0.999
        assert 0.6 < float(inside.float().mean()) < 0.95

    def test_places_are_not_rounded_under_autocast(self) -> None:
        joints = leaning_body(20, (22.3, 40.8)).float()[None, None]
        frames = blobs(joints)
        module = PoseGuidedAlignment().eval()
        exact = module(frames, joints)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(module(frames, joints), exact)

    def test_no_frame_to_move_is_no_error_and_gradients_flow(self) -> None:
        joints = torch.stack([leaning_body(0, (20, 30)), leaning_body(20, (20, 30))])[None]
        frames = blobs(joints).requires_grad_()
        for shown in (frames[:, :, :1], frames):
            result = PoseGuidedAlignment().eval()(shown, joints[:, : shown.shape[2]])
            (gradient,) = torch.autograd.grad(result.sum(), frames)
            assert float(gradient.abs().sum()) > 0

    def test_peaks_are_the_places_and_values_of_the_maxima(self) -> None:
        joints = leaning_body(10, (22, 38))[None, None].repeat(2, 2, 1, 1)
        joints[1, 0] = leaning_body(-15, (25, 37))
        joints[..., :2] = joints[..., :2].round()
        joints[0, 1, :, 2] = 0.5
        torch.testing.assert_close(peaks(blobs(joints)), joints)

    @pytest.mark.parametrize("angle_deg", [20, -20])
    def test_the_model_finds_the_spine_itself_to_within_the_pixels_of_the_peaks(
        self, angle_deg: float
    ) -> None:
        model = GaitHeat(3, channels=(2, 2, 2, 2)).eval()
        assert model.alignment is not None
        seen: list[Tensor] = []
        model.alignment.register_forward_hook(lambda _, __, result: seen.append(result))
        joints = leaning_body(angle_deg, (22.3, 40.8)).float()[None, None]
        with torch.no_grad():
            model(blobs(joints))
            model(blobs(joints), joints=joints)
        for result, angle_error_deg, place_error_px in [(seen[0], 3.0, 1.0), (seen[1], 0.5, 0.5)]:
            neck, hip = spine_of(centres(result.double()))
            assert float(spine_angle(neck, hip).abs()) < math.radians(angle_error_deg)
            assert float((neck - torch.tensor([24.0, 16.0])).norm()) < place_error_px

    def test_a_map_of_zeros_has_no_joint(self) -> None:
        joints = leaning_body(20, (20, 30)).float()[None, None]
        frames = blobs(joints)
        frames[:, HIPS[0]] = 0
        model = GaitHeat(3, channels=(2, 2, 2, 2)).eval()
        off = GaitHeat(3, channels=(2, 2, 2, 2), alignment=False).eval()
        off.load_state_dict(model.state_dict())
        assert torch.equal(model(frames).embedding, off(frames).embedding)


class TestNormalisation:
    def test_each_clip_spans_zero_to_one_over_all_joints_and_frames(self) -> None:
        frames = clips(n=3)
        frames[1] = frames[1] * 0.5 - 0.25
        result = normalise_clips(frames)
        for before, after in zip(frames, result, strict=True):
            expected = (before - before.min()) / (before.max() - before.min())
            torch.testing.assert_close(after, expected)

    def test_a_clip_of_one_value_becomes_zeros(self) -> None:
        assert torch.equal(
            normalise_clips(torch.full((1, 17, 2, 4, 3), 0.3)), torch.zeros(1, 17, 2, 4, 3)
        )

    def test_brightness_and_contrast_of_a_clip_do_not_matter(self) -> None:
        model = small().eval()
        frames = clips()
        changed = frames.clone()
        changed[0] = changed[0] * 0.4 - 0.2
        torch.testing.assert_close(
            model(changed).embedding, model(frames).embedding, rtol=0, atol=1e-4
        )

    def test_it_is_not_of_the_batch(self) -> None:
        frames = clips(n=2)
        frames[1] *= 0.1
        together = normalise_clips(frames)
        assert torch.equal(together[1:], normalise_clips(frames[1:]))
        assert float(together[1].max()) == 1.0


class TestSize:
    def test_parameters_are_the_derived_number(self) -> None:
        with torch.device("meta"):
            model = GaitHeat(74)
            assert num_parameters(model) == 16_944_576
            assert num_parameters(GaitHeat(74, alignment=False)) == 16_944_576
        groups = {
            name: sum(parameter.numel() for parameter in group)
            for name, group in model.parameter_groups().items()
        }
        # One residual network of nine convolution layers; stages 2-4 of a second; three heads.
        assert groups == {"backbone": 4_896_960, "fusion": 4_822_272, "head": 7_225_344}

    def test_more_partitions_cost_no_parameters(self) -> None:
        counts = {
            num_parameters(small(partitions=tuple(i % k for i in range(17)))) for k in (1, 2, 5)
        }
        assert len(counts) == 1

    def test_the_output_of_the_paper_has_sixteen_parts(self) -> None:
        model = GaitHeat(4, channels=(2, 2, 2, 2)).eval()
        output = model(clips(h=64, w=48))
        assert output.embedding.shape == (2, 16, 256)
        assert model.num_parts == 16
        for branch in output.branches.values():
            assert branch.triplet_features.shape == (2, 16, 256)
            assert branch.logits is not None
            assert branch.logits.shape == (2, 16, 4)

    def test_one_frame_is_enough(self) -> None:
        model = small().eval()
        assert model.min_frames == 1
        assert model(clips(t=1)).embedding.isfinite().all()


SWITCHES: dict[str, dict[str, Any]] = {
    "table-5-without-alignment": {"alignment": False},
    "section-4.1-threshold": {"angle_threshold_deg": 20.0},
    "table-4-two-drawn-maps": {"in_channels": 2, "partitions": (0, 1)},
    "align-to": {"align_to_px": (6.0, 6.0)},
    "padding": {"padding": "border"},
    "partitions": {"partitions": tuple(i % 3 for i in range(17))},
    "channels": {"channels": (2, 3, 4, 5)},
    "parts": {"num_parts": 4},
    "embedding-dim": {"embedding_dim": 4},
    "embedding": {"embedding": "before_norm"},
    "global-embedding": {"embedding_branch": "global"},
    "local-embedding": {"embedding_branch": "local"},
    "size": {"input_size_px": (32, 12)},
}


def tilted_joints(n: int = 2, t: int = 3) -> Tensor:
    """A spine that leans by 45 degrees to the right and by 11 to the left, on maps of 16 x 12."""
    joints = torch.ones(n, t, 17, 3)
    joints[..., HIPS, :2] = torch.tensor([6.0, 10.0])
    joints[..., SHOULDERS, :2] = torch.tensor([10.0, 6.0])
    joints[:, 1:, SHOULDERS, :2] = torch.tensor([5.0, 5.0])
    return joints


class TestSwitches:
    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_every_switch_changes_parameters_or_output(self, training: bool) -> None:
        seen: dict[str, tuple[int, Tensor]] = {}
        for name, switches in {"default": {}, **SWITCHES}.items():
            model = small(**switches).train(training)
            height, width = model.input_size_px
            frames = clips(h=height, w=width, c=model.in_channels)
            draws = torch.full((2, 3), 0.5)
            output = model(frames, joints=tilted_joints(), align_draws=draws)
            seen[name] = (num_parameters(model), output.embedding.detach())
        for (a, (count_a, first)), (b, (count_b, second)) in itertools.combinations(
            seen.items(), 2
        ):
            alike = (
                count_a == count_b
                and first.shape == second.shape
                and torch.allclose(first, second, atol=1e-4)
            )
            assert not alike, f"{a} and {b} are the same network"

    def test_the_ratio_of_straight_frames_matters_in_training_only(self) -> None:
        draws = torch.full((2, 3), 0.5)
        joints = tilted_joints()
        for training in (True, False):
            outputs = [
                small(align_small_ratio=ratio, angle_threshold_deg=20.0).train(training)(
                    clips(), joints=joints, align_draws=draws
                )
                for ratio in (0.2, 0.6)
            ]
            same = torch.allclose(outputs[0].embedding, outputs[1].embedding, atol=1e-4)
            assert same is not training

    @pytest.mark.parametrize("branch", BRANCHES)
    @pytest.mark.parametrize("training", [False, True])
    def test_the_embedding_is_the_one_that_is_asked_for(self, branch: Any, training: bool) -> None:
        before = small(embedding_branch=branch, embedding="before_norm").train(training)(clips())
        after = small(embedding_branch=branch).train(training)(clips())
        assert torch.equal(before.embedding, before.branches[branch].triplet_features)
        torch.testing.assert_close(after.embedding.norm(dim=-1), torch.ones(2, 2))
        # The cosines are those of the embedding after the norm.
        head = small().heads[branch]
        weight = nn.functional.normalize(head.neck.identity_linear.weight, dim=1)
        torch.testing.assert_close(
            torch.einsum("npd,pdk->npk", after.embedding, weight), after.branches[branch].logits
        )

    def test_the_default_embedding_is_the_fusion_branch_after_the_norm(self) -> None:
        output = small()(clips())
        named = small(embedding_branch="fusion", embedding="after_norm")(clips())
        assert torch.equal(output.embedding, named.embedding)

    def test_recomputing_changes_no_gradient_and_no_statistic(self) -> None:
        results = []
        for recompute in (True, False):
            model = small(recompute=recompute)
            torch.manual_seed(1)
            output = model(clips())
            loss_of(output).backward()
            results.append(
                (
                    [parameter.grad for parameter in model.parameters()],
                    [buffer.clone() for buffer in model.buffers()],
                )
            )
            assert all(
                m.momentum == 0.1 and m.num_batches_tracked == 1
                for m in model.modules()
                if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
            )
        torch.testing.assert_close(*results, rtol=0, atol=0)

    def test_recomputing_keeps_less(self) -> None:
        kept = []
        for recompute in (True, False):
            sizes: dict[int, int] = {}

            def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
                return tensor

            model = GaitHeat(3, channels=(8, 16, 32, 64), embedding_dim=8, recompute=recompute)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                output = model(clips(t=8, h=64, w=48))
            kept.append(sum(sizes.values()))
            del output
        assert kept[0] < 0.72 * kept[1]

    def test_recomputing_works_under_autocast_and_in_evaluation(self) -> None:
        model = small()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(clips())
        loss_of(output).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        model.eval()
        before = [buffer.clone() for buffer in model.buffers()]
        loss_of(model(clips())).backward()
        assert all(map(torch.equal, before, model.buffers()))


def loss_of(output: GaitOutput) -> Tensor:
    total = torch.zeros(())
    for branch in output.branches.values():
        assert branch.logits is not None
        total = total + branch.logits.float().pow(3).sum()
        total = total + branch.triplet_features.float().pow(2).sum()
    return total


class TestModes:
    def test_a_clip_embeds_alone_as_in_a_batch_of_equal_length(self) -> None:
        model = GaitHeat(5, channels=(8, 16, 16, 16), embedding_dim=16)
        joints = torch.stack([leaning_body(angle, (22, 38)) for angle in (0, 12, -7, 2)]).float()
        frames = blobs(joints[:, None]) * 0.9 + clips(n=4, t=3, h=64, w=48) * 0.1
        given = joints[:, None].repeat(1, 3, 1, 1)
        model(frames, joints=given)
        model.eval()
        with torch.no_grad():
            together = model(frames, joints=given).embedding
            alone = torch.cat(
                [model(frames[i : i + 1], joints=given[i : i + 1]).embedding for i in range(4)]
            )
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)

    def test_a_long_clip_passes_in_pieces_and_embeds_as_in_one(self) -> None:
        model = small().train()
        frames, joints = clips(n=2, t=70), tilted_joints(t=70)
        model(frames, joints=joints)
        model.eval()
        lengths: list[int] = []
        model.stem.register_forward_hook(lambda _, __, result: lengths.append(result.shape[2]))
        whole = model(frames, joints=joints).embedding
        with torch.no_grad():
            pieces = model(frames, joints=joints).embedding
        assert lengths == [70, 24, 24, 22]
        torch.testing.assert_close(pieces, whole.detach(), rtol=0, atol=1e-5)

    def test_the_order_of_frames_does_not_matter(self) -> None:
        model = small().eval()
        frames, joints = clips(t=4), tilted_joints(t=4)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(
            model(frames[:, :, order], joints=joints[:, order]).embedding,
            model(frames, joints=joints).embedding,
        )

    def test_evaluation_is_bit_identical_between_calls_and_ignores_draws(self) -> None:
        model = small().eval()
        first = model(clips()).embedding
        draws = torch.zeros(2, 3)
        assert torch.equal(model(clips(), align_draws=draws).embedding, first)

    def test_in_training_draws_decide_the_output(self) -> None:
        model = small(angle_threshold_deg=180.0)
        few, many = torch.full((2, 3), 0.9), torch.full((2, 3), 0.1)
        joints = tilted_joints()
        outputs = [
            model(clips(), joints=joints, align_draws=draws).embedding for draws in (few, many, few)
        ]
        assert torch.equal(outputs[0], outputs[2])
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)

    def test_training_moves_the_statistics_of_the_norms_and_evaluation_does_not(self) -> None:
        model = small()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.eval()(clips())
        assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
        model.train()(clips())
        assert not any(torch.equal(before[name], value) for name, value in model.named_buffers())

    def test_clips_in_any_memory_order_give_the_same_output(self) -> None:
        model = small().eval()
        frames = clips()
        ordered = frames.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(ordered), model(frames))

    def test_bfloat16_under_autocast_is_close(self) -> None:
        model = small()
        frames = clips(n=4)
        model(frames)
        model.eval()
        exact = model(frames)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(frames)
        torch.testing.assert_close(output.embedding.float(), exact.embedding, rtol=0.1, atol=0.1)

    def test_maps_of_a_network_may_leave_zero_to_one_a_little(self) -> None:
        model = small().eval()
        frames = clips() * 1.4 - 0.2
        assert model(frames).embedding.isfinite().all()


class TestContract:
    def test_every_constructor_argument_is_typed_documented_and_plain(self) -> None:
        parameters = inspect.signature(GaitHeat).parameters
        hints = get_type_hints(GaitHeat.__init__)
        documented = {
            entry.arg_name: entry.description
            for entry in docstring_parser.parse(inspect.getdoc(GaitHeat) or "").params
        }
        for name, parameter in parameters.items():
            assert name in hints
            assert documented.get(name), f"{name} is not described"
            assert parameter.annotation is not inspect.Parameter.empty
            assert not isinstance(parameter.annotation, str)
            if name != "num_subjects":
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
                json.dumps(parameter.default)

    def test_a_model_builds_from_lists_as_json_gives_them(self) -> None:
        arguments = json.loads(
            json.dumps(
                {
                    "channels": (2, 3, 4, 3),
                    "partitions": (0,) * 11 + (1,) * 6,
                    "align_to_px": (6.0, 4.0),
                    "num_parts": 2,
                }
            )
        )
        model = GaitHeat(5, input_size_px=[16, 12], **arguments)  # type: ignore[arg-type]
        assert model.input_size_px == (16, 12)
        model.eval()(clips())

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        model = small()
        grouped = [p for group in model.parameter_groups().values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
        assert list(model.parameter_groups()) == ["backbone", "fusion", "head"]

    @pytest.mark.parametrize("alignment", [True, False])
    def test_named_stages_are_called_once_each_and_in_order(self, alignment: bool) -> None:
        model = small(alignment=alignment).eval()
        called: list[str] = []
        for name, stage in model.named_stages().items():
            stage.register_forward_hook(lambda *_, name=name: called.append(name))
        with torch.no_grad():
            model(clips())
        assert called == list(model.named_stages())

    def test_state_dict_keys_are_public(self) -> None:
        def norm(name: str) -> list[str]:
            ends = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            return [f"{name}.{end}" for end in ends]

        def block(name: str, shortcut: bool) -> list[str]:
            keys = [f"{name}.convolution1.weight", *norm(f"{name}.norm1")]
            keys += [f"{name}.convolution2.weight", *norm(f"{name}.norm2")]
            if shortcut:
                keys += [f"{name}.shortcut.0.weight", *norm(f"{name}.shortcut.1")]
            return keys

        expected = ["stem.network.convolution.weight", *norm("stem.network.norm")]
        for index in range(4):
            expected += block(f"stages.{index}.network", shortcut=index > 0)
        for index in range(3):
            expected += block(f"fusion_stages.{index}.network", shortcut=True)
        for name in BRANCHES:
            expected += [f"heads.{name}.linear.weight", *norm(f"heads.{name}.neck.norm")]
            expected += [f"heads.{name}.neck.identity_linear.weight"]
        assert list(small().state_dict()) == expected

    @pytest.mark.parametrize(
        "switches",
        [
            pytest.param({}, id="two-groups"),
            pytest.param({"partitions": (0,) * 17}, id="one-group"),
            pytest.param({"channels": (1, 1, 1, 1)}, id="one-channel-everywhere"),
        ],
    )
    def test_gradients_have_the_strides_of_their_weights(self, switches: dict[str, Any]) -> None:
        # DDP warns of others, and safetensors refuses weights that are not contiguous.
        model = small(**switches)
        loss_of(model(clips())).backward()
        for name, parameter in model.named_parameters():
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride(), name

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            pytest.param(clips()[0], "got 4 dimensions", id="rank"),
            pytest.param(clips(c=1), "got 1 channels.*expected 17", id="channels"),
            pytest.param(clips(h=12), "got frames of 12x12 px.*expected 16x12", id="height"),
            pytest.param(clips(w=16), "got frames of 16x16 px.*expected 16x12", id="width"),
            pytest.param(
                clips()[:, :, :0], "got clips of 0 frames, expected at least 1", id="length"
            ),
            pytest.param((clips() * 255).byte(), "got torch.uint8", id="bytes"),
            pytest.param(clips() * 255, "got values in .*expected finite values", id="not-divided"),
            pytest.param(clips() * torch.nan, "got values in nan", id="not-a-number"),
        ],
    )
    def test_input_that_does_not_fit_is_refused_by_name(self, frames: Tensor, message: str) -> None:
        with pytest.raises(ModelInputError, match=f"GaitHeat: {message}"):
            small()(frames)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            pytest.param(
                {"joints": tilted_joints(t=4)}, r"got joints \(2, 4, 17, 3\)", id="more-frames"
            ),
            pytest.param(
                {"joints": tilted_joints()[..., :2]}, r"expected \(2, 3, 17, 3\)", id="no-score"
            ),
            pytest.param({"joints": tilted_joints().long()}, "torch.int64", id="whole-numbers"),
            pytest.param({"joints": tilted_joints() * torch.inf}, "not finite", id="infinite"),
            pytest.param({"joints": tilted_joints() * torch.nan}, "not finite", id="not-a-number"),
            pytest.param({"align_draws": torch.rand(3, 2)}, r"align_draws \(3, 2\)", id="draws"),
        ],
    )
    def test_joints_and_draws_that_do_not_fit_are_refused(
        self, extra: dict[str, Tensor], message: str
    ) -> None:
        with pytest.raises(ModelInputError, match=message):
            small()(clips(), **extra)

    def test_a_joint_that_was_not_found_may_have_any_place(self) -> None:
        joints = tilted_joints()
        joints[0, 0, 0] = torch.tensor([torch.nan, torch.inf, 0.0])
        assert small().eval()(clips(), joints=joints).embedding.isfinite().all()

    def test_maps_that_are_not_joints_need_joints_or_no_alignment(self) -> None:
        frames = clips(c=2)
        drawn: dict[str, Any] = {"in_channels": 2, "partitions": (0, 1)}
        with pytest.raises(ModelInputError, match="got no joints"):
            small(**drawn)(frames)
        small(**drawn)(frames, joints=tilted_joints())
        small(**drawn, alignment=False)(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param({"num_subjects": 0}, "num_subjects", id="no-subjects"),
            pytest.param({"embedding_dim": 0}, "embedding_dim", id="no-features"),
            pytest.param({"channels": (2, 3, 4)}, "channels", id="three-stages"),
            pytest.param({"channels": (2, 3, 4, 0)}, "channels", id="no-channels"),
            pytest.param({"partitions": (0, 1)}, "each of the 17 channels", id="too-few-groups"),
            pytest.param({"partitions": (0,) * 16 + (2,)}, "number the groups", id="gap"),
            pytest.param({"partitions": (-1,) * 17}, "number the groups", id="negative"),
            pytest.param({"in_channels": 2}, "each of the 2 channels", id="other-channels"),
            pytest.param({"num_parts": 3}, "must divide the 4 rows", id="parts"),
            pytest.param({"num_parts": 0}, "num_parts", id="no-parts"),
            pytest.param({"input_size_px": (16, 0)}, "input_size_px", id="no-width"),
            pytest.param({"embedding": "norm"}, "embedding", id="unknown-embedding"),
            pytest.param({"embedding_branch": "main"}, "embedding_branch", id="unknown-branch"),
            pytest.param({"padding": "reflection"}, "padding", id="unknown-padding"),
            pytest.param({"angle_threshold_deg": -1.0}, "angle_threshold_deg", id="angle"),
            pytest.param({"align_small_ratio": 1.5}, "align_small_ratio", id="ratio"),
            pytest.param({"align_to_px": (math.nan, 0.0)}, "align_to_px", id="place"),
        ],
    )
    def test_arguments_that_cannot_be_meant_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(**arguments)


def walking_bodies(num_subjects: int, num_clips: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """Joints [n, t, 17, 3]; the subject is the size of the body and its swing, the clip a phase.

    Some bodies lean, so that the alignment has something to do.
    """
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(num_subjects):
        girth, height, swing = (torch.rand(3, generator=generator) * 0.5 + 0.7).tolist()
        for _ in range(num_clips):
            phase, tilt = (torch.rand(2, generator=generator) * 6.28).tolist()
            walk = []
            for frame in range(num_frames):
                joints = leaning_body(8 * math.sin(tilt), (24, 36))
                offset = (joints[:, :2] - 24) * 0
                for joint, sign, reach in [(13, 1, 3), (15, 1, 6), (14, -1, 3), (16, -1, 6)]:
                    offset[joint, 0] = sign * reach * swing * math.sin(0.8 * frame + phase)
                for joint, sign in [(9, -1), (10, 1)]:
                    offset[joint, 0] = sign * 5 * swing * math.sin(0.8 * frame + phase)
                size = torch.tensor([girth, height]).double()
                joints[:, :2] = (joints[:, :2] - torch.tensor([24, 36])) * size + offset
                joints[:, :2] += torch.tensor([24, 36])
                walk.append(joints)
            made.append(torch.stack(walk))
    joints = torch.stack(made).float()
    return joints, torch.arange(num_subjects).repeat_interleave(num_clips)


def test_a_network_of_an_eighth_of_the_width_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    joints, labels = walking_bodies(num_subjects=4, num_clips=2, num_frames=2)
    frames = blobs(joints)
    model = GaitHeat(4, channels=(8, 16, 32, 64), embedding_dim=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    triplet_of, identity_of = TripletLoss(0.2), IdentityLoss(scale=16.0)
    generator = torch.Generator().manual_seed(0)
    history: list[dict[str, tuple[float, float]]] = []
    for _ in range(25):
        draws = torch.rand(labels.shape[0], joints.shape[1], generator=generator)
        output = model(frames, joints=joints, align_draws=draws)
        loss = torch.zeros(())
        step = {}
        for name, branch in output.branches.items():  # Eq. 9
            triplet = triplet_of(branch.triplet_features, labels)
            identity = identity_of(branch.logits, labels)
            loss = loss + triplet.loss + identity.loss
            step[name] = (float(triplet.active_ratio), float(identity.loss.detach()))
        history.append(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name in BRANCHES:
        active, cross_entropy = history[0][name]
        assert active > 0.2, name
        assert cross_entropy > 1.0, name
        assert history[-1][name][0] < 0.05, name
        assert history[-1][name][1] < 0.05, name

    with torch.no_grad():
        # The averages of the norms start at a variance of 1, far from that of maps so dark.
        for _ in range(40):
            model(frames, joints=joints, align_draws=torch.ones(joints.shape[:2]))
        output = model.eval()(frames, joints=joints)
    for branch in output.branches.values():
        assert branch.logits is not None
        assert float(identity_of(branch.logits, labels).accuracy) == 1.0
    embedding = output.embedding.transpose(0, 1)  # [p, n, d]
    distances = torch.cdist(embedding, embedding).mean(dim=0)
    distances.fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)


@pytest.mark.slow
def test_a_step_of_the_full_width_gives_every_parameter_a_gradient() -> None:
    torch.manual_seed(0)
    model = GaitHeat(74)
    joints, labels = walking_bodies(num_subjects=2, num_clips=2, num_frames=2)
    output = model(blobs(joints), joints=joints)
    loss = torch.zeros(())
    for branch in output.branches.values():
        assert branch.triplet_features.shape == (4, 16, 256)
        assert branch.logits is not None
        assert branch.logits.shape == (4, 16, 74)
        loss = loss + TripletLoss()(branch.triplet_features, labels).loss
        loss = loss + IdentityLoss(16, 0.1)(branch.logits, labels).loss
    loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
        for parameter in model.parameters()
    )

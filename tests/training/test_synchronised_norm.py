"""Batch norms over the clips of all workers are torch's over the whole batch."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raygait.training.synchronised_norm import synchronise_norms

_CLASSES = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}
_SHARES = {2: (5, 3), 4: (1, 4, 2, 1)}
_CLIPS = {2: (1, 1), 4: (1, 1, 1, 1)}


@dataclass(frozen=True)
class _Case:
    """A norm and what runs through it.

    Attributes:
        kind: Key of `_CLASSES`.
        place: Axes of the maps after clips and channels.
        memory: How they are stored.
        dtype: Of the maps.
        weights: Of the norm; as the maps, but float32 for halves, if left out.
        switches: Of the norm's constructor.
        one_each: One clip a worker, else uneven shares.
        mean: Of the features, in standard deviations.
        channels: Of the maps.
    """

    kind: str
    place: tuple[int, ...]
    memory: torch.memory_format = torch.contiguous_format
    dtype: torch.dtype = torch.float64
    weights: torch.dtype | None = None
    switches: tuple[tuple[str, Any], ...] = ()
    one_each: bool = False
    mean: float = 0.5
    channels: int = 3

    def norm(self) -> nn.Module:
        torch.manual_seed(1)
        norm = _CLASSES[self.kind](self.channels, **dict(self.switches))
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias)
        halves = self.dtype.itemsize == 2
        return norm.to(self.weights or (torch.float32 if halves else self.dtype))

    def batches(self, world_size: int) -> list[tuple[Tensor, Tensor]]:
        """Two batches and the gradients that their normed maps get."""
        generator = torch.Generator().manual_seed(2)
        shape = (sum(self.shares(world_size)), self.channels, *self.place)
        made = torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64)
        # Channels differ in scale, clips in brightness: shares have other statistics than all.
        made[:, 0] *= torch.arange(1, self.channels + 1).view(-1, *[1] * len(self.place))
        made[:, 0] += self.mean + torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) / 4
        return [
            tuple(each.to(self.dtype).to(memory_format=self.memory) for each in pair)
            for pair in made
        ]

    def shares(self, world_size: int) -> tuple[int, ...]:
        return (_CLIPS if self.one_each else _SHARES)[world_size]


_LAST_2D, _LAST_3D = torch.channels_last, torch.channels_last_3d
_SINGLE, _HALF, _BRAIN = torch.float32, torch.float16, torch.bfloat16
CASES = {
    "1d of vectors": _Case("1d", ()),
    "1d of sequences": _Case("1d", (6,)),
    "2d": _Case("2d", (5, 4)),
    "2d channels last": _Case("2d", (5, 4), _LAST_2D),
    "3d": _Case("3d", (3, 5, 4)),
    "3d channels last": _Case("3d", (3, 5, 4), _LAST_3D),
    "one vector each": _Case("1d", (), one_each=True),
    "one clip each": _Case("3d", (2, 5, 4), _LAST_3D, one_each=True),
    "mean over all batches": _Case("2d", (5, 4), switches=(("momentum", None),)),
    "momentum 1": _Case("2d", (5, 4), switches=(("momentum", 1.0),)),
    "no running statistics": _Case("2d", (5, 4), switches=(("track_running_stats", False),)),
    "no weights": _Case("3d", (3, 5, 4), switches=(("affine", False),)),
    "large eps": _Case("1d", (6,), switches=(("eps", 0.5),)),
    "many values, channels last": _Case("3d", (9, 16, 11), _LAST_3D, channels=4),
    "more channels than fit a piece": _Case("2d", (13, 11), _LAST_2D, channels=130),
    "float32, 1d": _Case("1d", (), dtype=_SINGLE),
    "float32, 2d": _Case("2d", (16, 11), dtype=_SINGLE),
    "float32, 2d channels last": _Case("2d", (16, 11), _LAST_2D, dtype=_SINGLE),
    "float32, 3d": _Case("3d", (9, 16, 11), dtype=_SINGLE),
    "float32, 3d channels last": _Case("3d", (9, 16, 11), _LAST_3D, dtype=_SINGLE),
    "float32, bright": _Case("2d", (16, 11), _LAST_2D, dtype=_SINGLE, mean=100.0),
    "bfloat16": _Case("2d", (5, 4), _LAST_2D, dtype=_BRAIN),
    "float16": _Case("3d", (3, 5, 4), _LAST_3D, dtype=_HALF),
    "bfloat16, its weights too": _Case("2d", (5, 4), dtype=_BRAIN, weights=_BRAIN),
    "float16, its weights too": _Case("1d", (6,), dtype=_HALF, weights=_HALF),
}
# Relative to the largest number of a tensor. An output in halves is the true one rounded.
_TOLERANCE = {torch.float64: 1e-13, _SINGLE: 2e-6, _BRAIN: 2**-8, _HALF: 2**-11}


def _run(
    norm: nn.Module, batches: list[tuple[Tensor, Tensor]], own: slice = slice(None)
) -> dict[str, Tensor]:
    """What two batches, or this worker's share of them, give and leave behind."""
    results: dict[str, Tensor] = {}
    for number, (maps, gradient) in enumerate(batches):
        share = maps[own].detach().clone(memory_format=torch.preserve_format).requires_grad_()
        normed = norm(share)
        normed.backward(gradient[own])
        results |= {f"normed {number}": normed.detach(), f"gradient {number}": share.grad}
    results |= {f"gradient of {name}": each.grad for name, each in norm.named_parameters()}
    if norm.track_running_stats:  # else a share's own: nobody else need be evaluating
        norm.eval()
        with torch.no_grad():
            results["in evaluation"] = norm(batches[0][0][own])
    return results | dict(norm.named_buffers())


class _Net(nn.Module):
    """Two norms, one of which may be frozen, and a layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4, momentum=None)
        self.second = nn.Conv2d(4, 4, 3, bias=False)
        self.frozen = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.norm(self.first(frames)).relu()
        return self.last(self.frozen(self.second(features)).relu().mean((2, 3)))


def _network(*, freeze: bool = False) -> _Net:
    torch.manual_seed(0)
    network = _Net().double().train()
    network.frozen.running_mean.fill_(0.1)
    if freeze:
        network.frozen.eval().requires_grad_(False)
    return network


def _train(trained: nn.Module, own: slice = slice(None)) -> None:
    frames = torch.randn(8, 1, 9, 8, generator=torch.Generator().manual_seed(3)).double()
    network = trained.module if isinstance(trained, DistributedDataParallel) else trained
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        trained(frames[own]).square().mean().backward()
        optimiser.step()


def _worker(rank: int, folder: str) -> None:
    # Once the processes are there, two of them first.
    for world_size in (2, 4):
        if rank < world_size:
            _results(rank, world_size, f"{folder}/{world_size}")


def _results(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}-meeting", rank=rank, world_size=world_size
    )
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        norm = case.norm()
        synchronise_norms(norm)
        shares = case.shares(world_size)
        own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        results[name] = _run(norm, case.batches(world_size), own)
    for name in ("network", "frozen", "compiled"):
        network = _network(freeze=name == "frozen")
        synchronise_norms(network)
        if name == "compiled":
            network.compile(backend="aot_eager")
        _train(DistributedDataParallel(network), slice(rank, None, world_size))
        results[name] = network.state_dict()
    torch.save(results, f"{folder}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each worker of two, and of four, has got."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(_worker, (str(folder),), nprocs=4)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def workers(request, folder: Path) -> list[dict[str, Any]]:
    return [
        torch.load(folder / f"{request.param}-{rank}.pt", weights_only=True)
        for rank in range(request.param)
    ]


def _assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    # Of two clips that are one value a channel each, next to nothing is left of a gradient.
    scale = max(float(expected.abs().max()), 0.01)
    torch.testing.assert_close(
        got.double(), expected.double(), rtol=0, atol=tolerance * scale, check_stride=False
    )


@pytest.mark.parametrize("name", CASES)
def test_workers_together_have_what_torch_has_of_the_whole_batch(workers, name: str) -> None:
    case, got = CASES[name], [each[name] for each in workers]
    # In doubles: what is left of a difference is ours.
    norm = case.norm().double()
    batches = [(maps.double(), gradient.double()) for maps, gradient in case.batches(len(workers))]
    expected = _run(norm, batches)
    assert {*expected} == {*got[0]}
    tolerance = _TOLERANCE[case.dtype]
    for key, values in expected.items():
        each = [one[key] for one in got]
        if key in dict(norm.named_buffers()):
            # The same bits on all.
            assert all(torch.equal(one, each[0]) for one in each)
            kept = _TOLERANCE[each[0].dtype] if each[0].is_floating_point() else 0.0
            _assert_close(each[0], values, 2 * kept)
        elif key.startswith("gradient of"):
            # Sums of products that were rounded to halves on their way.
            _assert_close(sum(one.double() for one in each), values, 4 * tolerance)
        else:
            assert all(one.dtype == case.dtype for one in each)
            _assert_close(torch.cat(each), values, 2 * tolerance)


@pytest.mark.parametrize("name", CASES)
def test_alone_it_is_torchs(name: str) -> None:
    case = CASES[name]
    norm = case.norm()
    expected = _run(
        copy.deepcopy(norm).double(), [(m.double(), g.double()) for m, g in case.batches(2)]
    )
    synchronise_norms(norm)
    got = _run(norm, case.batches(2))
    for key, values in expected.items():
        exact = not got[key].is_floating_point()
        _assert_close(got[key], values, 0.0 if exact else 4 * _TOLERANCE[got[key].dtype])


@pytest.mark.parametrize(
    ("name", "freeze"),
    [
        pytest.param("network", False, id="all train"),
        pytest.param("frozen", True, id="one is frozen"),
        pytest.param("compiled", False, id="compiled"),
    ],
)
def test_a_network_trains_as_it_does_on_one_worker(workers, name: str, freeze: bool) -> None:
    network = _network(freeze=freeze)
    before = copy.deepcopy(network.state_dict())
    _train(network)
    for key, values in network.state_dict().items():
        assert torch.equal(values, before[key]) == (freeze and key.startswith("frozen")), key
        for theirs in workers:
            torch.testing.assert_close(theirs[name][key], values, rtol=1e-10, atol=1e-12)


def test_names_parameters_and_hooks_stay() -> None:
    network = _network()
    names, weights = list(network.state_dict()), list(network.parameters())
    calls = []
    network.norm.register_forward_hook(lambda *_: calls.append(1))
    held = network.norm
    synchronise_norms(network)
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))
    assert network.norm is held
    assert isinstance(held, nn.BatchNorm2d)
    assert type(held) is not nn.BatchNorm2d
    network(torch.randn(2, 1, 9, 8).double())
    assert calls == [1]
    # Once more is no other class and no error.
    kind = type(held)
    synchronise_norms(network)
    assert type(held) is kind


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        pytest.param(nn.SyncBatchNorm(3), "SyncBatchNorm", id="torch's own"),
        pytest.param(nn.LazyBatchNorm2d(), "LazyBatchNorm2d", id="lazy"),
    ],
)
def test_norms_that_would_see_a_share_only_are_refused_and_none_is_changed(norm, kind) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), norm)
    with pytest.raises(TypeError, match=f"1 is a {kind}, expected one of BatchNorm1d, BatchNorm2d"):
        synchronise_norms(network)
    assert type(network[0]) is nn.BatchNorm2d


def test_norms_of_a_clip_alone_stay_as_they_are() -> None:
    others = nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(4))
    synchronise_norms(others)
    assert [type(each) for each in others] == [nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm]


@pytest.mark.parametrize("kind", ["1d", "2d", "3d"])
def test_maps_of_another_number_of_axes_are_refused(kind: str) -> None:
    norm = _CLASSES[kind](3)
    synchronise_norms(norm)
    with pytest.raises(ValueError, match="expected"):
        norm(torch.zeros(2, 3, 2, 2, 2, 2))


def test_a_single_value_of_a_channel_has_no_variance() -> None:
    norm = nn.BatchNorm1d(3)
    synchronise_norms(norm)
    with pytest.raises(ValueError, match=r"got \(1, 3\), expected more than one value"):
        norm(torch.zeros(1, 3))
    assert norm.eval()(torch.zeros(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 3, 2), (2, 3, 2, 2), (2, 3, 2, 2, 2)], ids=lambda shape: f"{len(shape)}d"
)
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...], affine: bool) -> None:
    kind = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[len(shape)]
    torch.manual_seed(0)
    norm = _CLASSES[kind](3, affine=affine, track_running_stats=False).double()
    synchronise_norms(norm)
    maps = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def run(maps: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(("weight", "bias"), weights, strict=False))
        return torch.func.functional_call(norm, named, (maps,))

    assert torch.autograd.gradcheck(run, (maps, *norm.parameters()))


def test_sums_of_channels_last_maps_are_not_off() -> None:
    # Torch's kernel adds 300,000 ReLUs up in float32, one after the other: off by 6e-4.
    maps = torch.randn(4, 4, 30, 50, 50, generator=torch.Generator().manual_seed(0)).relu()
    maps = maps.to(memory_format=torch.channels_last_3d)
    norm = nn.BatchNorm3d(4, momentum=1.0)
    synchronise_norms(norm)
    norm(maps)
    torch.testing.assert_close(
        norm.running_mean.double(), maps.double().mean((0, 2, 3, 4)), rtol=3e-7, atol=0
    )
    torch.testing.assert_close(
        norm.running_var.double(), maps.double().var((0, 2, 3, 4)), rtol=3e-7, atol=0
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_it_computes_the_same() -> None:
    plain, compiled = _network(), _network()
    for network in (plain, compiled):
        synchronise_norms(network)
    compiled.compile()
    _train(plain)
    _train(compiled)
    for name, values in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], values, rtol=1e-10, atol=1e-12)

"""The recipe in small worlds where the answer is known: gates that a change of it must pass before anyone trains for
hours."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import toy_student as toy  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from toy_student import PHASE, RECIPE, SCHEDULE, Mixture, Net, ToyGiven, ToyStudent  # noqa: E402

from emo_live.training.distil.student import Batch, flat_step, guided_velocity, sample  # noqa: E402

SIZE = 128


def columns(x: Tensor) -> Tensor:
    """(..., C) -> (..., C, 1, 1)"""
    return x[..., None, None]


def nothing(size: int, channels: int) -> Tensor:
    """Motion frames of a world that has none."""
    return torch.zeros(size, 1, 0, channels, 1, 1)


@torch.no_grad()
def solved(network: nn.Module, noise: Tensor, given: ToyGiven, steps: int = 40, guidance: float = 1.0) -> Tensor:
    """Where many DDIM steps lead."""
    x, times = noise, SCHEDULE.trailing(steps)
    for now, to in zip(times, [*times[1:], -1], strict=True):
        t = torch.full(x.shape[:2], now)
        v = guided_velocity(ToyStudent(), network, x, t, given, guidance)  # type: ignore[arg-type]
        x = flat_step(SCHEDULE, x, v, t, torch.full_like(t, to))
    return x


@torch.no_grad()
def few(network: nn.Module, noise: Tensor, given: ToyGiven, steps: int) -> Tensor:
    return sample(ToyStudent(), network, noise, given, steps)  # type: ignore[arg-type]


def miss(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The same arithmetic on every machine; and small tensors are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_gaussian_teacher_is_matched_in_closed_form() -> None:
    """Of Gaussian data the way from noise to data is known: it stretches and shifts."""
    mean, spread = torch.tensor([0.7, -0.4]), torch.tensor([0.5, 1.6])

    def batches() -> Iterator[Batch]:
        while True:
            z = mean + spread * torch.randn(SIZE, 1, 1, 2)
            yield {"z": columns(z), "sound": torch.zeros(SIZE, 1, 1, 0), "motion": nothing(SIZE, 2)}

    teacher, network = Mixture(lambda given: mean.expand(len(given.sound), 1, 1, 2), spread), Net(1, 2, 0)
    noise, given = torch.randn(2000, 1, 2, 1, 1), ToyGiven(torch.zeros(2000, 1, 0), nothing(2000, 2)[:, 0])
    wanted = mean[:, None, None] + spread[:, None, None] * noise
    assert miss(few(network, noise, given, 4), wanted) > 0.5, "it has something to learn"
    student = toy.distil(network, teacher, batches(), 1000, replace(RECIPE, stride=10), PHASE)
    assert miss(few(student, noise, given, 4), wanted) < 1e-3


@pytest.mark.slow
def test_guidance_is_folded_in() -> None:
    """One of two classes is asked for; the student without guidance lands where guidance leads the teacher."""
    centres, guidance = torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), 3.5

    def means(given: ToyGiven) -> Tensor:
        both = centres[None, :, None].expand(len(given.sound), 2, 1, 2)
        own = torch.where(given.sound > 0, centres[1], centres[0])[:, None].expand(-1, 2, -1, -1)
        return torch.where((given.sound == 0)[..., None], both, own)

    def batches() -> Iterator[Batch]:
        while True:
            kind = torch.randint(2, (SIZE,))
            z = centres[kind] + 0.6 * torch.randn(SIZE, 2)
            sound = 2.0 * kind[:, None, None, None] - 1
            yield {"z": columns(z[:, None, None]), "sound": sound, "motion": nothing(SIZE, 2)}

    teacher = Mixture(means, torch.tensor([0.6, 0.6]))
    student = toy.distil(Net(1, 2, 1), teacher, batches(), 600, replace(RECIPE, guidance=guidance), PHASE)
    sound = 2.0 * torch.randint(2, (2000, 1, 1)) - 1
    noise, given = torch.randn(2000, 1, 2, 1, 1), ToyGiven(sound, nothing(2000, 2)[:, 0])
    guided, plain = solved(teacher, noise, given, guidance=guidance), solved(teacher, noise, given)
    assert miss(few(student, noise, given, 4), guided) < 0.02 * miss(plain, guided)


def speaking(size: int) -> tuple[Tensor, Tensor]:
    """(B, 8, 1) loudness of speech, and (B, 2, 8, 2) the two means of mouth and head: the mouth follows it, the head
    leans to either side."""
    turn, pace = 6.28 * torch.rand(size, 1), 0.3 + 0.5 * torch.rand(size, 1)
    sound = (0.5 + 0.5 * torch.sin(turn + pace * torch.arange(8)))[..., None]
    return sound, speaking_means(ToyGiven(sound, sound))


def speaking_means(given: ToyGiven) -> Tensor:
    mouth = 2 * given.sound - 1
    return torch.stack([torch.cat([mouth, torch.full_like(mouth, side)], -1) for side in (-1.0, 1.0)], 1)


@pytest.mark.slow
def test_few_steps_speak_as_many_do() -> None:
    spread = torch.tensor([0.15, 0.3])

    def batches() -> Iterator[Batch]:
        while True:
            sound, means = speaking(SIZE)
            z = means[torch.arange(SIZE), torch.randint(2, (SIZE,))] + spread * torch.randn(SIZE, 8, 2)
            yield {"z": columns(z[:, None]), "sound": sound[:, None], "motion": nothing(SIZE, 2)}

    teacher = Mixture(speaking_means, spread)
    student = toy.distil(Net(8, 2, 1, width=128), teacher, batches(), 1200, RECIPE, PHASE)
    count = 500
    sound = speaking(count)[0].repeat(2, 1, 1)
    given = ToyGiven(sound, nothing(2 * count, 2)[:, 0])
    # every noise also with the other sign: or how many heads lean to which side decides by chance
    noise = [torch.cat([x, -x]) for x in (torch.randn(count, 8, 2, 1, 1) for _ in range(8))]
    of_teacher = [solved(teacher, x, given).flatten(1) for x in noise[:4]]
    of_student = [few(student, x, given, 4).flatten(1) for x in noise[4:]]
    same = [toy.energy_distance(of_teacher[i], of_teacher[j]) for i in range(4) for j in range(i)]
    apart = [toy.energy_distance(a, b) for a in of_teacher for b in of_student]
    assert sum(apart) / len(apart) < 1.1 * sum(same) / len(same)
    made = torch.cat(of_student).view(-1, 8, 2)
    loud = sound[..., 0].repeat(4, 1)
    assert torch.corrcoef(torch.stack([made[..., 0].flatten(), loud.flatten()]))[0, 1] > 0.95
    heads = made[..., 1].mean(1)
    assert 0.4 < float((heads > 0).float().mean()) < 0.6 and float(heads.abs().mean()) > 0.8, "to either side"


FRAMES, PAST = 4, 2


class GoesOn(nn.Module):
    """Predicts that motion goes on as it was, until it learns to listen."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.heard = nn.Linear(PAST, FRAMES), nn.Linear(FRAMES, FRAMES)
        ahead = torch.arange(1.0, FRAMES + 1)
        for weight, value in ((self.past.weight, torch.stack([-ahead, 1 + ahead], 1)), (self.heard.weight, 0 * ahead)):
            weight.data.copy_(value if value.ndim == 2 else value.expand_as(weight))
        for part in (self.past, self.heard):
            part.bias.data.zero_()

    def forward(self, x: Tensor, t: Tensor, given: ToyGiven) -> Tensor:
        a, s = toy.scales(t)
        clean = (self.past(given.past.flatten(1)) + self.heard(given.sound.flatten(1))).view_as(x)
        return (a * x - clean) / s


def swaying(size: int, frames: int) -> tuple[Tensor, Tensor]:
    """(B, PAST + frames) slow motion, and what is heard of it: true but for noise."""
    turn, pace = 6.28 * torch.rand(size, 1), 0.05 + 0.1 * torch.rand(size, 1)
    x = torch.sin(turn + pace * torch.arange(frames + PAST))
    return x, x + 0.3 * torch.randn_like(x)


def swaying_batches(windows: int) -> Iterator[Batch]:
    while True:
        x, sound = swaying(64, windows * FRAMES)
        z, heard = (each[:, PAST:].unflatten(1, (windows, FRAMES)) for each in (x, sound))
        past = x[:, :-PAST].unflatten(1, (windows, FRAMES))[:, :, :PAST]
        yield {"z": columns(z[..., None]), "motion": columns(past[..., None]), "sound": heard[..., None]}


def drift(network: nn.Module) -> list[float]:
    """Errors of the first and the last 200 of 1,000 frames, root mean square; the motion's own is 0.7."""
    torch.manual_seed(9)
    x, sound = swaying(8, 1000)
    done = [x[:, :PAST]]
    for i in range(PAST, 1000 + PAST, FRAMES):
        past = torch.cat(done, 1)[:, -PAST:]
        given = ToyGiven(sound[:, i : i + FRAMES, None], columns(past[..., None]))
        done.append(few(network, torch.randn(8, FRAMES, 1, 1, 1), given, 1)[:, :, 0, 0, 0])
    errors = (torch.cat(done, 1) - x).square()
    return [float(part.mean().sqrt()) for part in (errors[:, :200], errors[:, -200:])]


@pytest.mark.slow
def test_roll_outs_stay_where_they_were_trained_on_their_own_output() -> None:
    recipe = replace(RECIPE, segments=1, steps=(1,))
    learns = replace(PHASE, taught=0.25, consistency=0.0, truth=1.0, rates=(None, 1e-2))
    errors = []
    for phase in (replace(learns, windows=2, own=0.0), replace(learns, windows=4, own=1.0)):
        torch.manual_seed(0)
        network = GoesOn()
        student = toy.distil(network, copy.deepcopy(network), swaying_batches(phase.windows), 400, recipe, phase)
        errors.append(drift(student))
    without, own = errors
    assert own[0] < 0.4 and own[1] < 1.2 * own[0], "as good after 40 s as at first"
    assert without[1] > 3 and without[1] > 3 * without[0], "on the truth alone it drifts away"


@pytest.mark.slow
def test_matching_takes_either_side_where_regression_takes_the_middle() -> None:
    sides, spread = torch.tensor([-1.0, 1.0]), torch.tensor([0.15])
    teacher = Mixture(lambda given: sides.view(1, 2, 1, 1).expand(len(given.sound), 2, 1, 1), spread)

    def batches() -> Iterator[Batch]:
        while True:
            z = sides[torch.randint(2, (SIZE,))] + spread * torch.randn(SIZE)
            yield {
                "z": columns(z[:, None, None, None]),
                "sound": torch.zeros(SIZE, 1, 1, 0),
                "motion": nothing(SIZE, 1),
            }

    recipe, phase = replace(RECIPE, segments=1, steps=(1,)), replace(PHASE, taught=0.0, truth=1.0)
    given = ToyGiven(torch.zeros(1000, 1, 0), nothing(1000, 1)[:, 0])
    noise, true = torch.randn(1000, 1, 1, 1, 1), solved(teacher, torch.randn(1000, 1, 1, 1, 1), given).flatten(1)
    averaged = toy.distil(Net(1, 1, 0, width=64), teacher, batches(), 150, recipe, phase)
    middle = few(averaged, noise, given, 1).flatten(1)
    assert middle.abs().mean() < 0.1
    matched = toy.distil(
        copy.deepcopy(averaged).requires_grad_(True),
        teacher,
        batches(),
        250,
        recipe,
        replace(phase, truth=0.0, matching=1.0, rates=(None, 1e-3)),
    )
    made = few(matched, noise, given, 1).flatten(1)
    assert 0.3 < float((made > 0).float().mean()) < 0.7, "to either side"
    assert toy.energy_distance(made, true) < 0.2 * toy.energy_distance(middle, true)

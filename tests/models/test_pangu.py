"""Time-decoupled generators: who answers at which t, what happens at the switch, size buckets, data policy and ledger."""

import pytest
import torch

from lt.models.nn.diffusion import Denoiser, Guided, NoiseSchedule, seeded_noise
from lt.models.nn.sampling import make_scheduler, sample
from lt.models.pangu import (
    BUCKETS_512,
    BUCKETS_1024,
    SCHEMES,
    T_STRUCT,
    TimeDecoupled,
    images_used,
    ledger,
    monolithic,
    time_decoupled,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(factor, asked=None):
    """A smooth stand-in for a U-Net that notes the timesteps it is asked for."""

    def answer(z, t, condition):
        if asked is not None:
            asked.append(float(t))
        return torch.tanh(factor * z) + 0.1 * factor

    return answer


def pair(asked_structure=None, asked_texture=None, factors=(0.7, 1.3), t_struct=T_STRUCT):
    return TimeDecoupled(
        Denoiser(network(factors[0], asked_structure), timesteps=range(t_struct, 1000)),
        Denoiser(network(factors[1], asked_texture), timesteps=range(t_struct)),
    )


NOISE = seeded_noise([1, 2], (4, 8, 8))


# --- who answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "segment"), [(999, 0), (500, 0), (499.99, 1), (499, 1), (0, 1)])
def test_the_current_t_decides(t, segment):
    asked = [[], []]
    model = pair(*asked)
    model(NOISE, torch.tensor(t), {})
    assert model.segment(t) == segment
    assert [len(one) for one in asked] == [1 - segment, segment]


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "unipc", "heun"])
def test_no_generator_is_asked_what_it_never_learned(name):
    structure, texture = [], []
    sample(Guided(pair(structure, texture), {}), make_scheduler(name, NoiseSchedule()), NOISE, steps=40)
    assert min(structure) >= T_STRUCT > max(texture)
    assert len(structure) > 5 and len(texture) > 5


def test_the_released_loops_rule_would_ask_structure_once_below_the_split():
    """The trap of the released sampler: it looks at the previous step's t. On its ladder exactly one step would go wrong."""
    scheduler = make_scheduler("euler", NoiseSchedule())
    scheduler.set_timesteps(40)
    model, times = pair(), scheduler.timesteps.tolist()
    ours = [model.segment(t) for t in times]
    released = [model.segment(t) for t in (times[0], *times[:-1])]
    wrong = [t for t, a, b in zip(times, ours, released, strict=True) if a != b]
    assert len(wrong) == 1 and wrong[0] < T_STRUCT
    assert released[times.index(wrong[0])] == 0, "structure, below T_struct"


def test_a_batch_of_mixed_timesteps_is_answered_by_both():
    structure = Denoiser(lambda z, t, c: z + c["a"], timesteps=range(500, 1000))
    texture = Denoiser(lambda z, t, c: -z + t[:, None, None, None], timesteps=range(500))
    model = TimeDecoupled(texture, structure)
    z, t = seeded_noise([1, 2, 3], (1, 2, 2)), torch.tensor([900, 100, 500])
    a = torch.arange(3.0)[:, None, None, None]
    expected = torch.stack([z[0] + 0, -z[1] + 100, z[2] + 2])
    torch.testing.assert_close(model(z, t, {"a": a}), expected)


def test_validation_runs_over_the_whole_time_line_and_training_over_a_part():
    asked = [[], []]
    model = TimeDecoupled(
        Denoiser(lambda z, t, c: asked[0].extend(t.tolist()) or torch.zeros_like(z), timesteps=range(T_STRUCT, 1000)),
        Denoiser(lambda z, t, c: asked[1].extend(t.tolist()) or torch.zeros_like(z), timesteps=range(T_STRUCT)),
    )
    losses = model.validation_loss(torch.zeros(3, 1, 4, 4), {}, seeds=[1, 2, 3], points=6)
    assert losses.shape == (3, 6) and len(asked[0]) == len(asked[1]) == 9
    asked[1].clear()
    model.generators[1].loss(torch.zeros(500, 1, 1, 1), {}, torch.Generator().manual_seed(0))
    assert max(asked[1]) < T_STRUCT and len(asked[1]) == 500


def test_generators_must_tile_the_time_line_and_agree():
    def part(span, **how):
        return Denoiser(network(1.0), timesteps=span, **how)

    for spans in ((range(500, 1000), range(400)), (range(500, 1000), range(600)), (range(500, 1000),)):
        with pytest.raises(ValueError, match=r"must tile 0\.\.T-1"):
            TimeDecoupled(*(part(span) for span in spans))
    with pytest.raises(ValueError, match="differ in schedule or prediction type"):
        TimeDecoupled(part(range(500, 1000)), part(range(500), prediction_type="v_prediction"))


# --- the switch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m"])
def test_two_equal_halves_are_one_whole(name):
    """With one-step solvers bit for bit; a multistep solver restarts at the switch and may differ there only."""
    how = {"solver_order": 1} if name == "dpm++2m" else {}
    scheduler = make_scheduler(name, NoiseSchedule(), **how)
    halves = sample(Guided(pair(factors=(1.0, 1.0)), {}), scheduler, NOISE, steps=20)
    whole = sample(Guided(Denoiser(network(1.0)), {}), scheduler, NOISE, steps=20)
    assert torch.equal(halves, whole)


@pytest.mark.parametrize("name", ["dpm++2m", "unipc"])
def test_a_multistep_solver_starts_anew_at_the_switch(name):
    """The same as handing the state to a fresh scheduler of diffusers at the switch, done here by hand."""
    steps, model = 20, pair()
    first, second = (make_scheduler(name, NoiseSchedule()) for _ in range(2))
    first.set_timesteps(steps)
    second.set_timesteps(steps)
    switch = next(rung for rung, t in enumerate(first.timesteps) if t < T_STRUCT)
    second.set_begin_index(switch)
    z, carried = NOISE, NOISE
    continued = make_scheduler(name, NoiseSchedule())
    continued.set_timesteps(steps)
    for rung, t in enumerate(first.timesteps):
        z = (first if rung < switch else second).step(model(z, t, {}), t, z).prev_sample
        carried = continued.step(model(carried, t, {}), t, carried).prev_sample
    ours = sample(Guided(model, {}), make_scheduler(name, NoiseSchedule()), NOISE, steps=steps)
    assert torch.equal(ours, z)
    assert (ours - carried).abs().max() > 1e-4, "carrying the history over would have been something else"


def test_a_solver_that_cannot_restart_is_refused_at_the_switch():
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(**NoiseSchedule().config(), skip_prk_steps=True)
    with pytest.raises(ValueError, match="cannot restart where the network changes"):
        sample(Guided(pair(), {}), scheduler, NOISE, steps=10)


def test_image_to_image_begins_with_the_generator_of_its_strength():
    scheduler = make_scheduler("euler", NoiseSchedule())
    for begin, expected in ((8, True), (25, False)):
        structure = []
        sample(Guided(pair(structure), {}), scheduler, NOISE, steps=40, begin=begin)
        assert bool(structure) == expected


# --- sizes, data, ledger ----------------------------------------------------------------------------------------------


def test_size_buckets_are_the_released_ones():
    assert len(BUCKETS_512.sizes) == 11 and len(BUCKETS_1024.sizes) == 10
    assert BUCKETS_1024.sizes[0] == (512, 2048) and BUCKETS_1024.sizes[-1] == (2048, 512)
    assert BUCKETS_512.sizes[BUCKETS_512.nearest(1000, 1000)] == (512, 512)
    assert BUCKETS_1024.sizes[BUCKETS_1024.nearest(3000, 2200)] == (1280, 960)
    assert all(
        bucket.nearest(*size) == bucket.ids(*size, 1).item()
        for bucket in (BUCKETS_512, BUCKETS_1024)
        for size in bucket.sizes
    )
    assert BUCKETS_512.ids(512, 512, 2).tolist() == [[5.0], [5.0]]
    with pytest.raises(ValueError, match=r"500x500 is no size this model has learned; its sizes: 256x1024, .*512x512"):
        BUCKETS_512.ids(500, 500, 1)


SIZES = [(300, 400)] * 50 + [(600, 800)] * 30 + [(1200, 1500)] * 20


def test_who_sees_what():
    """The table of the paper's page: structure all data, texture the >= 512 part; a boost drops what is small."""
    structure, texture = time_decoupled()
    assert (structure.size, texture.size) == (1024, 512)
    assert [sum(stage.keeps(*size) for size in SIZES) for stage in (structure, texture)] == [100, 50]
    assert sum(structure.enlarges(*size) for size in SIZES) == 80
    assert sum(texture.enlarges(*size) for size in SIZES if texture.keeps(*size)) == 0, (
        "texture sees only sharp pictures"
    )
    low, high = SCHEMES["resolution-boost"]
    assert [sum(stage.keeps(*size) for size in SIZES) for stage in (low, high)] == [50, 20]
    used = {name: images_used(stages, SIZES) for name, stages in SCHEMES.items()}
    assert used == {"time-decoupled": 100, "resolution-boost": 50, "cascaded": 100, "monolithic": 100}
    assert images_used([monolithic(keep_from=1024)], SIZES) == 20


def test_the_ledgers_arithmetic_by_hand():
    def cost(stage, side):
        return (1.0 if stage.network == "whole" else 0.5) * (side / 512) ** 2

    rows = {name: ledger(stages, SIZES, cost) for name, stages in SCHEMES.items()}
    structure, texture = rows["time-decoupled"]
    assert (structure.images, structure.enlarged, texture.images, texture.enlarged) == (100, 80, 50, 0)
    assert structure.training == 3 * 100 * 0.5 * 4 and texture.training == 3 * 50 * 0.5 * 1
    assert structure.sampling == texture.sampling == 20 * 0.5 * 4
    low, high = rows["resolution-boost"]
    assert (low.training, high.training) == (3 * 50, 3 * 20 * 4)
    assert (low.sampling, high.sampling) == (0, 40 * 4)
    assert sum(row.sampling for row in (structure, texture)) == 0.5 * high.sampling, "the paper's -50 % inference time"
    assert [row.sampling for row in rows["cascaded"]] == [40 * 0.25, 40, 40 * 4]
    (whole,) = rows["monolithic"]
    assert (whole.images, whole.training, whole.sampling) == (100, 3 * 100 * 4, 160)


def test_an_uneven_split_divides_the_sampling_steps_by_time():
    structure, texture = ledger(time_decoupled(t_struct=200), SIZES, lambda stage, side: 1.0)
    assert (structure.sampling, texture.sampling) == (pytest.approx(32), pytest.approx(8))

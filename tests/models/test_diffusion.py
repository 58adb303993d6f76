"""Schedules, parameterisations, guidance and loss against their formulas; the sampling loop against diffusers' pipelines."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.models.nn.autoencoder import AutoencoderSpace
from lt.models.nn.control import control_branch
from lt.models.nn.diffusion import (
    Denoiser,
    Guided,
    NoiseSchedule,
    convert,
    drop_condition,
    guide,
    join,
    min_snr_weight,
    seeded_noise,
    split,
)
from lt.models.nn.pipelines import denoiser_from, prompt_conditions, stable_diffusion_pipeline
from lt.models.nn.sampling import Solver, make_scheduler, restart_history, sample, seeded_start
from lt.models.pangu import TimeDecoupled

SCHEDULES = {
    "sd": NoiseSchedule(),
    "ddpm": NoiseSchedule(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    "cosine": NoiseSchedule(beta_schedule="squaredcos_cap_v2"),
    "zero-snr": NoiseSchedule(rescale_betas_zero_snr=True),
}
KINDS = ("epsilon", "v_prediction", "sample")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_table_is_diffusers_own_and_survives_its_configuration(name):
    schedule = SCHEDULES[name]
    for short in ("ddim", "euler", "dpm++2m", "unipc"):
        scheduler = make_scheduler(short, schedule)
        assert NoiseSchedule.from_config(scheduler.config) == schedule
        inner = slice(None, -1) if name == "zero-snr" else slice(None)  # Euler replaces its last zero by 2^-24
        assert torch.equal(scheduler.alphas_cumprod[inner], schedule.alphas_cumprod[inner])


def test_fractional_timesteps_mean_what_eulers_mean():
    scheduler = make_scheduler("euler", NoiseSchedule())
    scheduler.set_timesteps(7)
    assert any(float(t) % 1 for t in scheduler.timesteps)
    for t, ratio in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        alpha, sigma = NoiseSchedule().alpha_sigma(t.double(), torch.zeros(1, dtype=torch.float64))
        assert float(sigma / alpha) == pytest.approx(float(ratio), rel=1e-5)
        assert float(alpha**2 + sigma**2) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 998.999))
def test_matching_by_snr_is_the_inverse_of_the_schedule(name, t):
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert float(schedule.timestep_of(sigma / alpha)) == pytest.approx(t, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 950))
def test_going_to_another_schedule_and_back_is_the_identity(t):
    here, there = SCHEDULES["sd"], SCHEDULES["cosine"]
    for first, second in ((here, there), (there, here)):
        like = torch.zeros(1, dtype=torch.float64)
        alpha, sigma = first.alpha_sigma(torch.tensor(t, dtype=torch.float64), like)
        alpha, sigma = second.alpha_sigma(second.timestep_of(sigma / alpha), like)
        inside = second.noise_to_signal[0] < sigma / alpha < second.noise_to_signal[-1]
        assert not inside or float(first.timestep_of(sigma / alpha)) == pytest.approx(t, abs=1e-4)


def test_matching_beyond_a_schedule_gives_its_ends():
    assert NoiseSchedule().timestep_of(torch.tensor([0.0, 1e9])).tolist() == [0.0, 999.0]


def test_a_flow_matching_scheduler_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(ValueError, match="has no beta schedule"):
        NoiseSchedule.from_config(FlowMatchEulerDiscreteScheduler().config)


# --- parameterisations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 500, 998, 999])
@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_are_inverse_to_each_other_also_at_the_ends(name, t):
    generator = torch.Generator().manual_seed(t)
    x0, eps = (torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha, sigma = SCHEDULES[name].alpha_sigma(torch.tensor(t), x0)
    z = alpha * x0 + sigma * eps
    for source in KINDS:
        output = join(x0, eps, alpha, sigma, source)
        for target in KINDS:
            there = convert(output, z, alpha, sigma, source, target)
            back = convert(there, z, alpha, sigma, target, source)
            assert there.isfinite().all() and back.isfinite().all()
            silent = alpha == 0 and "epsilon" in (source, target)  # at SNR 0 noise says nothing about the picture
            if not silent:
                torch.testing.assert_close(there, join(x0, eps, alpha, sigma, target), rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(back, output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_agree_with_diffusers(kind):
    scheduler = make_scheduler("ddim", NoiseSchedule(), kind)
    scheduler.set_timesteps(10)
    z, output = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        alpha, sigma = NoiseSchedule().alpha_sigma(t, z)
        ours = split(output, z, alpha, sigma, kind)[0]
        torch.testing.assert_close(ours, scheduler.step(output, t, z).pred_original_sample, rtol=1e-4, atol=1e-4)


def test_the_v_target_and_the_noised_state_are_diffusers_own():
    scheduler = make_scheduler("ddpm", NoiseSchedule())
    x0, eps = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 250, 500, 998, 999])
    alpha, sigma = NoiseSchedule().alpha_sigma(t, x0)
    torch.testing.assert_close(join(x0, eps, alpha, sigma, "v_prediction"), scheduler.get_velocity(x0, eps, t))
    torch.testing.assert_close(alpha * x0 + sigma * eps, scheduler.add_noise(x0, eps, t))


def test_min_snr_weights():
    snr = torch.tensor([0.0, 0.5, 5.0, 50.0])
    assert min_snr_weight(snr, 5, "epsilon").tolist() == pytest.approx([1, 1, 1, 0.1])
    assert min_snr_weight(snr, 5, "v_prediction").tolist() == pytest.approx([0, 0.5 / 1.5, 5 / 6, 5 / 51])
    assert min_snr_weight(snr, 5, "sample").tolist() == pytest.approx([0, 0.5, 5, 5])


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_style_guidance_is_the_papers_formula():
    empty, text, aesthetic, anime = (torch.tensor([value]) for value in (1.0, 2.0, 5.0, -1.0))
    guided = guide(empty, text, 6.0, [(4.0, aesthetic), (0.5, anime)])
    assert guided.item() == pytest.approx(1 + 6 * (2 - 1) + 4 * (5 - 2) + 0.5 * (-1 - 2))
    assert guide(empty, text, 1.0).item() == 2.0


def linear_network(z, t, condition):
    return z * 0.5 + (condition["text"].mean((1, 2)) * (1 + t / 1000))[:, None, None, None]


def test_a_guided_pass_joins_all_conditions_in_one_batch():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 8, 8, generator=generator)
    text, empty, style = ({"text": torch.randn(3, 5, 6, generator=generator)} for _ in range(3))
    calls = []

    def network(z, t, condition):
        calls.append(len(z))
        return linear_network(z, t, condition)

    model, t = Denoiser(network), torch.tensor(300)
    output = Guided(model, text, empty, 3.0, ((2.0, style),))(z, t)
    e0, ec, es = (linear_network(z, t, one) for one in (empty, text, style))
    torch.testing.assert_close(output, e0 + 3 * (ec - e0) + 2 * (es - ec))
    torch.testing.assert_close(Guided(model, text, styles=((2.0, style),))(z, t), ec + 2 * (es - ec))
    assert torch.equal(Guided(model, text, empty)(z, t), ec)
    assert calls == [9, 6, 3]
    with pytest.raises(ValueError, match="needs the empty condition"):
        Guided(model, text, scale=2.0)


def test_dropping_conditions_leaves_what_is_not_named():
    condition = {"text": torch.ones(1000, 2, 3), "size": torch.ones(1000, 1)}
    dropped = drop_condition(condition, {"text": torch.zeros(1, 2, 3)}, 0.1, torch.Generator().manual_seed(0))
    rows = dropped["text"].flatten(1)
    assert set(rows.sum(1).tolist()) == {0.0, 6.0}, "a sample is dropped whole or not at all"
    assert (rows[:, 0] == 0).sum().item() == pytest.approx(100, abs=30)
    assert dropped["size"] is condition["size"]


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_zero_for_the_true_answer_and_a_mean_square_otherwise(kind):
    x0, eps = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 10, 500, 900, 999])
    alpha, sigma = NoiseSchedule().alpha_sigma(t, x0)
    truth = join(x0, eps, alpha, sigma, kind)
    exact = Denoiser(lambda z, t, c: truth, prediction_type=kind)
    assert exact.loss_at(x0, {}, t, eps).tolist() == [0.0] * 5
    silent = Denoiser(lambda z, t, c: torch.zeros_like(z), prediction_type=kind)
    torch.testing.assert_close(silent.loss_at(x0, {}, t, eps), truth.square().mean((1, 2, 3)))
    weighted = Denoiser(lambda z, t, c: torch.zeros_like(z), prediction_type=kind, min_snr_gamma=5.0)
    weights = min_snr_weight(NoiseSchedule().snr(t), 5.0, kind)
    torch.testing.assert_close(weighted.loss_at(x0, {}, t, eps), weights * truth.square().mean((1, 2, 3)))


def test_training_draws_only_the_generators_own_timesteps():
    seen = []

    def network(z, t, condition):
        seen.extend(t.tolist())
        return torch.zeros_like(z)

    model = Denoiser(network, timesteps=range(500, 1000))
    loss, metrics = model.loss(torch.zeros(4000, 1, 1, 1), {}, torch.Generator().manual_seed(0))
    assert min(seen) == 500 and max(seen) == 999
    assert loss.item() == pytest.approx(1, abs=0.1)
    assert set(metrics) == {"loss_noisy", "loss_clean"}
    with pytest.raises(ValueError, match="no part of"):
        Denoiser(network, timesteps=range(500, 1001))


def test_offset_noise_shifts_whole_channels():
    model = Denoiser(linear_network, offset_noise=0.5)
    noise = model.noise(torch.zeros(2000, 2, 8, 8), torch.Generator().manual_seed(0))
    means = noise.mean((2, 3))
    assert means.var().item() == pytest.approx(0.25 + 1 / 64, rel=0.1)
    assert torch.corrcoef(means.T)[0, 1].abs() < 0.1, "channels move independently"


def test_the_validation_loss_does_not_depend_on_the_batch():
    x0 = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = {"text": torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))}
    model = Denoiser(linear_network)
    whole = model.validation_loss(x0, text, seeds=[7, 8, 9, 10], points=5)
    alone = model.validation_loss(x0[2:3], {"text": text["text"][2:3]}, seeds=[9], points=5)
    assert whole.shape == (4, 5)
    torch.testing.assert_close(whole[2:3], alone)


class Plane(torch.nn.Module):
    """A small network over points of the plane, ``[b, 2, 1, 1]``, told a class."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 + 16 + 2, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, 2),
        )

    def forward(self, z, t, condition):
        waves = t.expand(len(z))[:, None] / 1000 * 2.0 ** torch.arange(8) * torch.pi / 2
        inputs = torch.cat([z.flatten(1), waves.sin(), waves.cos(), condition["class"]], dim=1)
        return self.layers(inputs).view_as(z)


def train(model, steps=500):
    """Two classes, each one tight cluster: class 0 about (1.5, 1.5), class 1 about (-1.5, 1.5)."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    empty = {"class": torch.zeros(1, 2)}
    for _ in range(steps):
        label = torch.randint(2, (256,), generator=generator)
        x0 = torch.stack([1.5 - 3.0 * label, torch.full((256,), 1.5)], dim=1) + 0.1 * torch.randn(
            256, 2, generator=generator
        )
        condition = drop_condition({"class": torch.eye(2)[label]}, empty, 0.1, generator)
        loss, _ = model.loss(x0[..., None, None], condition, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_loss_teaches_the_sampler_draws(kind):
    """One object defines both: train it, sample from it, find the classes where the data had them."""
    torch.manual_seed(0)
    model = train(Denoiser(Plane(), prediction_type=kind, min_snr_gamma=5.0))
    for label, place in ((0, 1.5), (1, -1.5)):
        wanted = {"class": torch.eye(2)[label].expand(200, 2)}
        guided = Guided(model, wanted, {"class": torch.zeros(200, 2)}, 1.5)
        points = sample(
            guided, make_scheduler("dpm++2m", NoiseSchedule(), kind), seeded_noise(range(200), (2, 1, 1)), steps=20
        )
        near = (points.flatten(1) - torch.tensor([place, 1.5])).norm(dim=1) < 0.6
        assert near.float().mean() > 0.95


def test_two_generators_trained_apart_draw_together():
    """PanGu-Draw's scheme on the same data: each half learns its own timesteps only."""
    torch.manual_seed(0)
    halves = [train(Denoiser(Plane(), timesteps=span)) for span in (range(500, 1000), range(500))]
    guided = Guided(TimeDecoupled(*halves), {"class": torch.eye(2)[1].expand(200, 2)})
    points = sample(guided, make_scheduler("euler", NoiseSchedule()), seeded_noise(range(200), (2, 1, 1)), steps=20)
    assert ((points.flatten(1) - torch.tensor([-1.5, 1.5])).norm(dim=1) < 0.6).float().mean() > 0.95


def test_seeded_noise_is_diffusers_own():
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    assert torch.equal(randn_tensor((2, 4, 8, 8), generator=generators), seeded_noise([3, 4], (4, 8, 8)))
    assert torch.equal(seeded_start([3, 4], (4, 8, 8))[0], seeded_noise([3, 4], (4, 8, 8)))


# --- sampling = diffusers' pipelines ----------------------------------------------------------------------------------


def ours(pipe, scheduler, prompts, seeds, steps, scale, hints=None, controls=()):
    """Pixels in 0..1 from our loop, with everything read off the pipeline."""
    full, empty = prompt_conditions(pipe, prompts, (32, 32), hints=hints)
    space = AutoencoderSpace(pipe.vae)
    noise, generators = seeded_start(seeds, (4, 32 // space.factor, 32 // space.factor))
    guided = Guided(denoiser_from(pipe, controls), full, empty, scale)
    with torch.no_grad():
        latents = sample(guided, scheduler, noise, steps=steps, generators=generators)
        return (space.decode(latents) / 2 + 0.5).clamp(0, 1)


def theirs(pipe, prompts, seeds, steps, scale, **arguments):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    how = {"num_inference_steps": steps, "guidance_scale": scale, "height": 32, "width": 32, "output_type": "pt"}
    return pipe(list(prompts), generator=generators, **how, **arguments).images


PROMPTS = ["a red apple", "a koala left of two clouds"]


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "euler-ancestral", "heun", "unipc"])
def test_same_pixels_as_diffusers_pipeline(tiny_sd, name, scale):
    tiny_sd.scheduler = make_scheduler(name, NoiseSchedule())
    expected = theirs(tiny_sd, PROMPTS, [11, 12], 8, scale)
    assert torch.equal(ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [11, 12], 8, scale), expected)
    assert expected.std() > 0.05, "a picture, not a plain field"


def test_same_pixels_with_the_scheduler_of_the_sd15_folder(tiny_sd):
    from diffusers import PNDMScheduler

    tiny_sd.scheduler = PNDMScheduler(**NoiseSchedule().config(), skip_prk_steps=True, steps_offset=1)
    pixels = ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [1, 2], 6, 3.0)
    assert torch.equal(pixels, theirs(tiny_sd, PROMPTS, [1, 2], 6, 3.0))


def test_same_pixels_with_v_prediction_and_zero_terminal_snr(tiny_sd):
    schedule = NoiseSchedule(rescale_betas_zero_snr=True)
    tiny_sd.scheduler = make_scheduler("ddim", schedule, "v_prediction", timestep_spacing="trailing")
    pixels = ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [1, 2], 6, 3.0)
    assert torch.equal(pixels, theirs(tiny_sd, PROMPTS, [1, 2], 6, 3.0))


def test_same_pixels_as_the_sdxl_pipeline(tiny_sdxl):
    expected = theirs(tiny_sdxl, PROMPTS, [5, 6], 6, 5.0)
    assert torch.equal(ours(tiny_sdxl, tiny_sdxl.scheduler, PROMPTS, [5, 6], 6, 5.0), expected)


def test_same_pixels_as_the_pixart_pipeline(tiny_pixart):
    how = {"use_resolution_binning": False, "clean_caption": False}
    expected = theirs(tiny_pixart, PROMPTS, [5, 6], 6, 4.5, **how)
    assert torch.equal(ours(tiny_pixart, tiny_pixart.scheduler, PROMPTS, [5, 6], 6, 4.5), expected)
    assert expected.std() > 0.05


def test_a_pipeline_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="object is not understood: Stable Diffusion 1 and 2, SDXL and PixArt are"):
        denoiser_from(object())


def test_same_pixels_as_the_controlnet_pipeline(tiny_sd):
    torch.manual_seed(0)
    branches = [control_branch(tiny_sd.unet, factor=2, hint_widths=(8, 16)) for _ in range(2)]
    for branch in branches:
        for parameter in branch.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    parts = {name: getattr(tiny_sd, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipe = stable_diffusion_pipeline(**parts, scheduler=make_scheduler("ddim", NoiseSchedule()), controlnets=branches)
    pipe.set_progress_bar_config(disable=True)
    pose, edge = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = theirs(pipe, PROMPTS, [1, 2], 5, 4.0, image=[pose, edge])
    hints = {"pose": pose, "edge": edge}
    pixels = ours(pipe, pipe.scheduler, PROMPTS, [1, 2], 5, 4.0, hints, ("pose", "edge"))
    assert torch.equal(pixels, expected)
    plain = ours(tiny_sd, pipe.scheduler, PROMPTS, [1, 2], 5, 4.0)
    assert (pixels - plain).abs().max() > 1e-3, "the branches say something"


def test_what_we_build_opens_with_diffusers(tiny_sd, tmp_path):
    from diffusers import DiffusionPipeline

    tiny_sd.scheduler = make_scheduler("ddim", NoiseSchedule())
    tiny_sd.save_pretrained(tmp_path)
    opened = DiffusionPipeline.from_pretrained(tmp_path)
    opened.set_progress_bar_config(disable=True)
    assert type(opened).__name__ == "StableDiffusionPipeline"
    assert torch.equal(
        theirs(opened, PROMPTS, [3, 4], 4, 5.0), ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [3, 4], 4, 5.0)
    )


def test_a_sample_does_not_depend_on_its_batch(tiny_sd):
    scheduler = make_scheduler("euler-ancestral", NoiseSchedule())
    both = ours(tiny_sd, scheduler, PROMPTS, [3, 4], 5, 5.0)
    alone = ours(tiny_sd, scheduler, PROMPTS[1:], [4], 5, 5.0)
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m"])
def test_a_run_can_begin_on_any_rung(name):
    """Stop a run, hand its state to a new solver: with one-step solvers the result is that of the run that was not stopped."""
    guided = Guided(Denoiser(linear_network), {"text": torch.ones(2, 1, 1)})
    scheduler = make_scheduler(name, NoiseSchedule(), **({"solver_order": 1} if name == "dpm++2m" else {}))
    noise = seeded_noise([1, 2], (4, 8, 8))
    solver = Solver(scheduler, 10, noise)
    for _ in range(4):
        solver.step(guided(solver.z, solver.t))
    rest = sample(guided, scheduler, solver.z, steps=10, begin=4)
    torch.testing.assert_close(rest, sample(guided, scheduler, noise, steps=10), rtol=1e-5, atol=1e-5)
    assert scheduler.num_inference_steps is None, "the caller's scheduler is left alone"


def test_a_scheduler_that_does_not_fit_is_refused():
    guided = Guided(Denoiser(linear_network, prediction_type="v_prediction"), {"text": torch.ones(2, 1, 1)})
    with pytest.raises(ValueError, match="expects epsilon, the model predicts v_prediction"):
        sample(guided, make_scheduler("ddim", NoiseSchedule()), torch.zeros(2, 4, 8, 8), steps=2)
    with pytest.raises(ValueError, match="noise schedule is"):
        sample(guided, make_scheduler("ddim", SCHEDULES["ddpm"], "v_prediction"), torch.zeros(2, 4, 8, 8), steps=2)
    with pytest.raises(ValueError, match="unknown scheduler 'ddmi'"):
        make_scheduler("ddmi", NoiseSchedule())


def test_a_solver_without_first_order_says_so():
    from diffusers import PNDMScheduler

    with pytest.raises(ValueError, match="PNDMScheduler cannot restart"):
        restart_history(PNDMScheduler())

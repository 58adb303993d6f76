"""The hook on a sampler's state: unused it costs nothing; it clamps, blends and guides, also under Coop-Diffusion."""

import pytest
import torch
import torch.nn.functional as F
from reference import PixelSpace

from lt.models.coop import HandOver, Member, hand_over, joint_denoise
from lt.models.nn.diffusion import Denoiser, Guided, NoiseSchedule, convert, seeded_noise
from lt.models.nn.sampling import make_scheduler, sample

SD, SHAPE, STEPS = NoiseSchedule(), (4, 8, 8), 8
NAMES = ["ddim", "euler", "dpm++2m", "unipc", "heun", "euler-ancestral"]
NOISE = seeded_noise([3, 4], SHAPE)
SOURCE = seeded_noise([5, 6], SHAPE).tanh()
LEFT = (torch.arange(8) < 4).float()
"""1 where something new is to be drawn, 0 where the source stays."""


class Counted:
    """A network that mixes neighbours, and counts how often it is asked."""

    def __init__(self, factor=0.7):
        self.factor, self.calls = factor, 0

    def __call__(self, z, t, condition):
        self.calls += 1
        return torch.tanh(self.factor * F.avg_pool2d(z, 3, 1, 1)) + 0.2 * z


class CountedSpace(PixelSpace):
    """Pixels, counting the trips."""

    def __init__(self):
        self.trips = 0

    def encode(self, pixels):
        self.trips += 1
        return pixels

    decode = encode


def guided(network):
    return Guided(Denoiser(network), {})


def drawn(name, hook=None, network=None, **how):
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    network = guided(network or Counted())
    return sample(network, make_scheduler(name, SD), NOISE, steps=STEPS, generators=generators, hook=hook, **how)


def blending(mask):
    """Blended latent diffusion: outside of the mask the source, at the state's own noise level."""

    def hook(state):
        source = state.alpha * SOURCE + state.sigma * NOISE
        state.z = mask * state.z + (1 - mask) * source

    return hook


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_that_changes_nothing_changes_no_bit_and_asks_nothing(name):
    plain, looked_at, read = Counted(), Counted(), Counted()
    seen = []

    def look(state):
        seen.append((float(state.alpha), float(state.sigma)))
        state.z = state.z

    alone = drawn(name, network=plain)
    assert torch.equal(drawn(name, look, looked_at), alone)
    assert torch.equal(drawn(name, lambda state: state.clean(), read), alone)
    assert plain.calls == looked_at.calls == read.calls == len(seen) - 1
    assert seen[-1] == (1, 0), "once more at the bottom"
    assert all(alpha**2 + sigma**2 == pytest.approx(1, abs=1e-5) for alpha, sigma in seen)


@pytest.mark.parametrize("name", NAMES)
def test_blending_keeps_the_source_where_nothing_is_to_be_drawn(name):
    assert torch.equal(drawn(name, blending(torch.zeros(8))), SOURCE)
    if name != "unipc":  # on rungs whose state was set it goes without its corrector
        assert torch.allclose(drawn(name, blending(torch.ones(8))), drawn(name), atol=2e-4)
    half = drawn(name, blending(LEFT))
    assert torch.equal(half[..., 4:], SOURCE[..., 4:])
    assert not torch.allclose(half[..., :4], drawn(name)[..., :4], atol=0.01), "its neighbour is heard"


@pytest.mark.parametrize("name", NAMES)
def test_the_hook_sees_the_variance_preserving_state_whatever_the_scheduler_carries(name):
    """A network that knows the picture is asked by the hook for the noise in `z`: it finds `alpha` times the picture."""
    alphas = []

    def network(z, t, condition):
        alpha, sigma = SD.alpha_sigma(t, z)
        return convert(SOURCE, z, alpha, sigma, "sample", "epsilon")

    def look(state):
        alphas.append(float(state.alpha))
        if not state.is_done:
            assert torch.allclose(state.clean(), SOURCE, atol=1e-3)
            assert torch.allclose(state.alpha * SOURCE + state.sigma * state.output, state.z, atol=1e-3)

    drawn(name, look, network)
    assert len(alphas) > STEPS and alphas == sorted(alphas)


def test_guidance_by_gradient_goes_down_and_through_the_network():
    def energy(pixels):
        return (pixels - SOURCE).square().sum()

    def down(state):
        if state.is_done:
            return
        with torch.enable_grad():
            state.z = state.z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(state.clean()), state.z)
        before = energy(state.clean())
        state.z = (state.z - 0.02 * slope).detach()
        assert energy(state.clean()) < before

    network = Counted()
    plain, nearer = drawn("ddim"), drawn("ddim", down, network)
    assert energy(nearer) < 0.5 * energy(plain) and not nearer.requires_grad
    assert network.calls == 2 * STEPS, "once for the slope, once for the answer"


def test_an_answer_in_the_networks_place_is_stepped_with():
    """Every guess replaced by the source: what is drawn is the source, as a network that knows it would draw."""

    def knows(state):
        if not state.is_done:
            state.answer(SOURCE)

    asked = Counted()
    assert torch.allclose(drawn("euler", knows, asked), SOURCE, atol=1e-4) and asked.calls == 0


def test_a_drawing_may_stop_at_a_rung_with_its_clean_guess():
    states = []
    guess = drawn("euler", states.append, end=3)
    assert len(states) == 4 and torch.equal(guess, states[-1].clean())


def members(space, *factors):
    lead, *others = (Counted(factor) for factor in factors)
    spaces = [Member(guided(lead), PixelSpace(), SHAPE), *(Member(guided(one), space, SHAPE) for one in others)]
    return spaces, [lead, *others]


def test_under_coop_the_clamped_region_stays_and_nothing_is_asked_twice():
    scheduler, counts, pictures = make_scheduler("euler", SD), [], []
    for hook in (None, lambda state: state.output if not state.is_done else None, blending(LEFT)):
        space = CountedSpace()
        both, networks = members(space, 0.7, 1.5)
        pictures.append(joint_denoise(both, scheduler, steps=STEPS, seeds=[3, 4], hook=hook))
        counts.append([space.trips, *(network.calls for network in networks)])
    assert counts[0] == counts[1] == counts[2] == [2 * STEPS - 1, STEPS, STEPS]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[2][..., 4:], SOURCE[..., 4:])
    alone, _ = members(CountedSpace(), 0.7)
    led = joint_denoise(alone, scheduler, steps=STEPS, seeds=[3, 4], hook=blending(LEFT))
    assert torch.equal(led, drawn("euler", blending(LEFT))), "one member is `sample`"
    assert not torch.allclose(pictures[2][..., :4], led[..., :4], atol=0.01), "the other is heard"


def test_each_group_of_a_hand_over_has_its_own_hook():
    rungs = {"low": [], "high": []}
    groups = [
        HandOver(members(CountedSpace(), 0.7)[0], 500, lambda state: rungs["low"].append(int(state.t))),
        HandOver(members(CountedSpace(), 0.9)[0], hook=lambda state: rungs["high"].append(state.is_done)),
    ]
    hand_over(groups, make_scheduler("ddim", SD), steps=10, seeds=[0])
    assert rungs["low"] == [901, 801, 701, 601, 501, 401], "the last one gives the guess that is handed over"
    assert rungs["high"] == [False] * 5 + [True]

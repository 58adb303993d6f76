"""Every field of a pipeline's configurations that would change its pixels is honoured, or refused by its name."""

import diffusers
import pytest
import torch
from test_diffusion import PROMPTS, ours, theirs

from lt.models.nn.control import control_branch
from lt.models.nn.diffusion import NoiseSchedule
from lt.models.nn.pipelines import denoiser_from
from lt.models.nn.sampling import make_scheduler
from lt.models.nn.understood import SCHEDULERS, objections


@pytest.mark.parametrize("name", SCHEDULERS)
def test_same_pixels_with_every_scheduler_that_is_understood(tiny_sd, name):
    tiny_sd.scheduler = getattr(diffusers, f"{name}Scheduler")(**NoiseSchedule().config())
    expected = theirs(tiny_sd, PROMPTS, [11, 12], 5, 3.0)
    assert torch.equal(ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [11, 12], 5, 3.0), expected)
    assert expected.isfinite().all() and expected.std() > 0.02


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIM", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
        ("DDIM", {"clip_sample": True, "clip_sample_range": 1.5, "set_alpha_to_one": False}),
        ("DDIM", {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}),
        ("DDPM", {"variance_type": "fixed_large", "steps_offset": 1, "prediction_type": "sample"}),
        (
            "EulerDiscrete",
            {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"},
        ),
        (
            "EulerDiscrete",
            {"timestep_type": "continuous", "sigma_min": 0.1, "sigma_max": 10.0, "use_karras_sigmas": True},
        ),
        (
            "DPMSolverMultistep",
            {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, "euler_at_final": True},
        ),
        ("UniPCMultistep", {"use_karras_sigmas": True}),
        ("TCD", {"original_inference_steps": 40}),
    ],
)
def test_same_pixels_with_what_a_schedulers_configuration_says(tiny_sd, name, config):
    tiny_sd.scheduler = getattr(diffusers, f"{name}Scheduler")(**NoiseSchedule().config() | config)
    tiny_sd.scheduler = type(tiny_sd.scheduler).from_config(tiny_sd.scheduler.config)
    expected = theirs(tiny_sd, PROMPTS, [1, 2], 5, 3.0)
    assert torch.equal(ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [1, 2], 5, 3.0), expected)


def test_same_pixels_where_the_autoencoder_states_its_latents_mean_and_deviation(tiny_sdxl):
    plain = theirs(tiny_sdxl, PROMPTS, [5, 6], 4, 5.0)
    mean, std = [-1.6, 0.2, 1.4, -0.7], [8.4, 5.5, 7.3, 6.1]
    tiny_sdxl.vae.register_to_config(latents_mean=mean, latents_std=std)
    expected = theirs(tiny_sdxl, PROMPTS, [5, 6], 4, 5.0)
    assert (expected - plain).abs().max() > 0.1, "it matters"
    assert torch.equal(ours(tiny_sdxl, tiny_sdxl.scheduler, PROMPTS, [5, 6], 4, 5.0), expected)


@pytest.mark.parametrize("forced", [True, False])
def test_same_pixels_however_the_empty_prompt_is_read(tiny_sdxl, forced):
    tiny_sdxl.register_to_config(force_zeros_for_empty_prompt=forced)
    expected = theirs(tiny_sdxl, PROMPTS, [5, 6], 4, 5.0)
    assert torch.equal(ours(tiny_sdxl, tiny_sdxl.scheduler, PROMPTS, [5, 6], 4, 5.0), expected)


def test_same_pixels_with_fields_that_act_inside_of_the_network(tiny_sd):
    config = {"center_input_sample": True, "encoder_hid_dim": 32, "encoder_hid_dim_type": "text_proj"}
    config |= {"time_embedding_act_fn": "silu", "timestep_post_act": "silu", "resnet_time_scale_shift": "scale_shift"}
    torch.manual_seed(0)
    plain = {name: value for name, value in tiny_sd.unet.config.items() if not name.startswith("_")}
    tiny_sd.unet = diffusers.UNet2DConditionModel(**plain | config).eval()
    assert all(tiny_sd.unet.config[name] == value for name, value in config.items())
    expected = theirs(tiny_sd, PROMPTS, [1, 2], 4, 3.0)
    assert torch.equal(ours(tiny_sd, tiny_sd.scheduler, PROMPTS, [1, 2], 4, 3.0), expected)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("unet", "time_cond_proj_dim", 256),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "num_class_embeds", 10),
        ("unet", "addition_embed_type", "image"),
        ("unet", "encoder_hid_dim_type", "ip_image_proj"),
        ("unet", "in_channels", 9),
        ("unet", "out_channels", 8),
        ("unet", "sample_size", (16, 24)),
        ("vae", "shift_factor", 0.1),
        ("vae", "latents_mean", (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_what_would_be_read_otherwise_is_refused_by_name(tiny_sd, part, field, value):
    assert objections(tiny_sd) == []
    getattr(tiny_sd, part).register_to_config(**{field: value})
    with pytest.raises(ValueError, match=f"{part}: {field} = .* is not understood"):
        denoiser_from(tiny_sd)


def test_controlnets_that_a_pipeline_treats_otherwise_are_refused(tiny_sd):
    parts = {name: part for name, part in tiny_sd.components.items() if name != "image_encoder"}
    net = control_branch(tiny_sd.unet, factor=2, hint_widths=(8, 16))
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    assert objections(pipe) == []
    net.register_to_config(global_pool_conditions=True)
    assert objections(pipe) == ["controlnet: global_pool_conditions = True is not understood, None or False is"]


def test_other_schedulers_autoencoders_and_pipelines_are_refused(tiny_sd):
    tiny_sd.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="its FlowMatchEulerDiscreteScheduler is not understood"):
        denoiser_from(tiny_sd)
    tiny_sd.scheduler = make_scheduler("ddim", NoiseSchedule())
    tiny_sd.vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    with pytest.raises(ValueError, match="vae: _class_name = 'AutoencoderTiny' is not understood"):
        denoiser_from(tiny_sd)
    parts = {name: part for name, part in tiny_sd.components.items() if name != "image_encoder"}
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline is not understood"):
        denoiser_from(pipe)

"""SAM and diffusion inpainting: the loading code, on small models with random weights saved with save_pretrained."""

import shutil

import numpy as np
import pytest

from lt.models.perception.registry import BackendError, load

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = transformers.SamVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_dim=32, output_channels=16, image_size=64,
        patch_size=8, window_size=4, global_attn_indexes=[1], num_pos_feats=8,
    )  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    transformers.SamModel(config).save_pretrained(folder)
    images = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    )
    transformers.SamProcessor(images).save_pretrained(folder)
    return folder


def test_sam_gives_one_mask_a_box_of_the_picture_s_size(sam_folder):
    segmenter = load("segmenter", f"transformers:{sam_folder}")
    picture = np.random.default_rng(0).integers(0, 255, (48, 60, 3), dtype=np.uint8)
    masks = segmenter.segment([picture, picture], [[(5, 5, 20, 20), (0, 0, 60, 48)], []])
    assert [len(its) for its in masks] == [2, 0]
    assert all(mask.shape == (48, 60) and mask.dtype == bool for mask in masks[0])
    again = segmenter.segment([picture], [[(5, 5, 20, 20)]])
    assert np.array_equal(again[0][0], masks[0][0])


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory):
    build_sam = pytest.importorskip("segment_anything.build_sam")
    torch.manual_seed(0)
    model = build_sam._build_sam(8, 3, 2, [1])
    for name, weight in model.named_parameters():
        if "pos" in name:  # positions start at zero
            torch.nn.init.normal_(weight, std=0.5)
    file = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    torch.save(model.state_dict(), file)
    return file, model


def test_sams_own_file_is_opened_by_its_sizes_and_a_picture_is_encoded_once(sam_file, monkeypatch):
    """Its masks are those that the authors' predictor gives one box at a time, the best of three by its own score."""
    from segment_anything import SamPredictor

    file, model = sam_file
    segmenter = load("segmenter", f"segment-anything:{file}")
    picture = np.random.default_rng(0).integers(0, 255, (48, 60, 3), dtype=np.uint8)
    boxes, encoded = [(5, 5, 20, 20), (0, 0, 60, 48), (30.5, 10, 20, 30)], []
    segmenter.predictor.model.image_encoder.register_forward_hook(lambda *seen: encoded.append(1))
    masks, none = segmenter.segment([picture, picture], [boxes, []])
    assert len(encoded) == 1 and none == [] and all(0.1 < mask.mean() < 0.9 for mask in masks)
    reference = SamPredictor(model)
    reference.set_image(picture)
    for (x, y, w, h), mask in zip(boxes, masks, strict=True):
        wanted, scores, _ = reference.predict(box=np.array([x, y, x + w, y + h]), multimask_output=True)
        assert mask.dtype == bool and mask.shape == (48, 60)
        assert (mask != wanted[scores.argmax()]).mean() < 0.001


def test_a_file_that_is_not_sams_is_refused_and_never_unpickled(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({"run": print}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in [
        ("other", "holds no weights"),
        ("code", "holds no weights"),
        ("text", "holds no weights"),
        ("no", "no file"),
    ]:
        with pytest.raises(BackendError, match=message) as refused:
            load("segmenter", f"segment-anything:{tmp_path / name}.pth")
        assert name == "no" or "download it again" in refused.value.hint
    with pytest.raises(BackendError, match="needs a file"):
        load("segmenter", "segment-anything")


@pytest.fixture(scope="module")
def inpainting_folder(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inpaint")
    (folder / "vocab").mkdir()
    letters = [chr(97 + number) for number in range(26)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), ",</w>"]
    (folder / "vocab" / "vocab.json").write_text(str({word: n for n, word in enumerate(words)}).replace("'", '"'))
    (folder / "vocab" / "merges.txt").write_text("#version: 0.2\n")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=9, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    vocab, merges = (str(folder / "vocab" / name) for name in ("vocab.json", "merges.txt"))
    tokenizer = transformers.CLIPTokenizer(vocab, merges, model_max_length=77)
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def test_diffusion_fills_the_hole_and_keeps_the_rest(inpainting_folder):
    inpainter = load("inpainter", f"diffusers:{inpainting_folder}")
    inpainter.steps = 2
    picture = np.random.default_rng(0).integers(0, 255, (51, 66, 3), dtype=np.uint8)
    mask = np.zeros((51, 66), bool)
    mask[10:30, 20:50] = True
    (filled,), (again,) = inpainter.inpaint([picture], [mask]), inpainter.inpaint([picture], [mask])
    assert np.array_equal(filled[~mask], picture[~mask])
    assert (filled[mask] != picture[mask]).mean() > 0.9
    assert np.array_equal(filled, again)
    assert np.array_equal(inpainter.inpaint([picture], [mask & False])[0], picture)


@pytest.mark.parametrize(("kind", "backend"), [("segmenter", "transformers"), ("inpainter", "diffusers")])
def test_missing_weights_name_the_command(kind, backend, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackendError, match="hf download"):
        load(kind, f"{backend}:{tmp_path / 'nothing'}")


def test_a_broken_folder_says_what_to_do(sam_folder, tmp_path):
    broken = tmp_path / "sam"
    shutil.copytree(sam_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BackendError, match="SamModel cannot be loaded from") as error:
        load("segmenter", f"transformers:{broken}")
    assert "fetch them again" in error.value.hint

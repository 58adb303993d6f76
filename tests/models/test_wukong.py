"""What is Wukong's own: token reduction, the locked tower, and its zero-shot rule."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lt.models.nn.contrastive import Features, contrastive_loss, image_similarity
from lt.models.wukong import WUKONG, TokenReduction, Wukong, prompt_votes, with_head

torch.set_num_threads(1)


def grouped(weight, x):
    """A 1 x 1 convolution in 8 groups, spelled out: x [b, n, d], weight [d, d / 8, 1]."""
    b, n, d = x.shape
    parts = x.view(b, n, 8, d // 8)
    return torch.einsum("bngi,goi->bngo", parts, weight.view(8, d // 8, d // 8)).reshape(b, n, d)


def test_reduction_is_the_papers_formula():
    torch.manual_seed(0)
    layer, x = TokenReduction(64, 12), torch.randn(3, 49, 64)
    torch.nn.init.normal_(layer.norm.weight), torch.nn.init.normal_(layer.norm.bias)
    normal = F.layer_norm(x, (64,), layer.norm.weight, layer.norm.bias)
    scores = torch.einsum("bnd,md->bmn", grouped(layer.mix.weight, normal), layer.attend.weight[..., 0])
    attention = scores.exp() / scores.exp().sum(2, keepdim=True)
    by_hand = torch.einsum("bmn,bnd->bmd", attention, grouped(layer.value.weight, x))
    torch.testing.assert_close(layer(x), by_hand, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.attention(x).sum(2), torch.ones(3, 12))


def test_reduction_does_not_see_the_order_of_patches():
    torch.manual_seed(0)
    layer, x = TokenReduction(64, 12).double(), torch.randn(2, 49, 64, dtype=torch.float64)
    torch.testing.assert_close(layer(x[:, torch.randperm(49)]), layer(x), rtol=1e-12, atol=1e-12)


def test_reduction_has_the_papers_size():
    assert sum(p.numel() for p in TokenReduction(256, 24).parameters()) == 23_040


@pytest.mark.parametrize(
    ("preset", "head", "dim", "tokens"),
    [
        ("vit-b", "global", 512, 1),
        ("vit-b", "tokens", 256, 49),
        ("vit-l", "global", 768, 1),
        ("vit-l", "reduced", 256, 24),
    ],
)
def test_the_nine_models(preset, head, dim, tokens):
    with torch.device("meta"):
        model = Wukong(with_head(preset, head))
        assert model.encode_image(torch.zeros(2, 3, 224, 224)).tokens.shape == (2, tokens, dim)


def test_unknown_heads_are_refused():
    with pytest.raises(ValueError, match="unknown head"):
        with_head("tiny", "pooled")


def test_a_locked_tower_stays_as_it_is_while_everything_else_learns():
    torch.manual_seed(0)
    model = Wukong(replace(WUKONG["tiny"], locked=True)).train()
    assert not model.image_tower.training and model.training
    pixels, tokens = torch.randn(4, 3, 64, 64), torch.randint(4, 500, (4, 32))
    encoded = model(pixels, tokens, torch.ones(4, 32, dtype=torch.bool))
    contrastive_loss(encoded.images, encoded.texts, encoded.scales)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("image_tower."), name
    assert not model.run_image_tower(pixels)[1].requires_grad


def test_votes_are_a_softmax_over_classes_for_each_template():
    torch.manual_seed(0)
    images = Features(F.normalize(torch.randn(3, 12, 8), dim=-1))
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 2, 5, 1])[:, None]
    prompts = Features(F.normalize(torch.randn(6, 5, 8), dim=-1) * mask[..., None], mask)
    s_i = image_similarity(images, prompts)
    by_hand = (s_i[:, 0::2].softmax(1) + s_i[:, 1::2].softmax(1)) / 2
    torch.testing.assert_close(prompt_votes(images, prompts, templates=2), by_hand)

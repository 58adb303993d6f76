"""Loss, temperature, token selection, prompt ensembles and cached accumulation, against open_clip and x-clip."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from reference import naive_token_similarity

from lt.models.filip import CLIP, FILIP, Filip
from lt.models.nn.accumulate import accumulated_backward
from lt.models.nn.contrastive import (
    Encoded,
    Exchange,
    Features,
    LogitScale,
    contrastive_loss,
    ensemble_similarity,
    image_similarity,
    select_tokens,
    similarity,
    text_similarity,
)

torch.set_num_threads(1)
SCALES = torch.tensor([1 / 0.07, 1 / 0.07], dtype=torch.float64)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def prefix_mask(lengths, places):
    return torch.arange(places) < torch.tensor(lengths)[:, None]


def masked(tokens, mask):
    return Features(tokens * mask[..., None], mask)


def test_global_loss_and_gradients_are_open_clips():
    x, y = unit(12, 16), unit(12, 16, seed=1)
    scale = torch.tensor(14.0, dtype=torch.float64)
    results = []
    for compute in (
        lambda a, b, s: ClipLoss()(a, b, s),
        lambda a, b, s: contrastive_loss(Features(a[:, None]), Features(b[:, None]), s.expand(2))[0],
    ):
        leaves = [t.clone().requires_grad_() for t in (x, y, scale)]
        loss = compute(*leaves)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_filip_similarities_are_x_clips(monkeypatch):
    """x-clip 0.14 takes losses inside `forward`; the matrices are caught where it takes their diagonals, as exponentials.

    Both its matrices are texts x images. (It never transposes s_i, so both of its losses normalise over images: not compared.)
    """
    from x_clip import x_clip

    images, texts = unit(5, 9, 8), unit(5, 6, 8, seed=1)
    mask = prefix_mask([6, 4, 1, 2, 5], 6)

    class Given(torch.nn.Module):
        def __init__(self, tokens):
            super().__init__()
            self.tokens = tokens

        def forward(self, *_):
            return self.tokens

    model = x_clip.CLIP(
        image_encoder=Given(images),
        text_encoder=Given(texts),
        dim_text=8,
        dim_image=8,
        dim_latent=8,
        use_all_token_embeds=True,
        text_has_cls_token=False,
        visual_has_cls_token=False,
    )
    model.to_text_latent, model.to_visual_latent = torch.nn.Identity(), torch.nn.Identity()
    torch.nn.init.zeros_(model.temperature)
    caught, diagonal = [], x_clip.matrix_diag
    monkeypatch.setattr(x_clip, "matrix_diag", lambda t: caught.append(t) or diagonal(t))
    model(mask.long(), torch.zeros(5, 3, 256, 256), return_loss=True)  # token number 0 is x-clip's pad
    their_t, their_i = (matrix[0].log().detach() for matrix in caught)
    s_i, s_t = similarity(Features(images), masked(texts, mask))
    torch.testing.assert_close(s_t.T, their_t, rtol=0, atol=1e-6)
    torch.testing.assert_close(s_i.T, their_i, rtol=0, atol=1e-6)


def test_one_sided_similarities_equal_the_two_sided():
    images, texts = Features(unit(5, 9, 8)), masked(unit(6, 4, 8, seed=1), prefix_mask([4, 1, 2, 3, 4, 2], 4))
    s_i, s_t = similarity(images, texts)
    assert torch.equal(image_similarity(images, texts), s_i)
    assert torch.equal(text_similarity(images, texts), s_t)
    with pytest.raises(ValueError, match="no padding"):
        similarity(Features(images.tokens, torch.ones(5, 9, dtype=torch.bool)), texts)


def test_loss_reads_rows_of_s_i_and_columns_of_s_t():
    images, texts = Features(unit(4, 5, 8)), Features(unit(4, 3, 8, seed=1))
    s_i, s_t = similarity(images, texts)
    rows = -(s_i * 10).log_softmax(1).diagonal().mean()
    columns = -(s_t * 20).log_softmax(0).diagonal().mean()
    loss, metrics = contrastive_loss(images, texts, torch.tensor([10.0, 20.0], dtype=torch.float64))
    torch.testing.assert_close(loss, (rows + columns) / 2)
    torch.testing.assert_close(metrics["loss_image"], rows)
    torch.testing.assert_close(metrics["loss_text"], columns)
    assert metrics["accuracy_text"] == (s_t.argmax(0) == torch.arange(4)).double().mean()


def test_pairs_of_one_group_share_the_target():
    images, texts = Features(unit(4, 5, 8)), Features(unit(4, 3, 8, seed=1))
    s_i, s_t = similarity(images, texts)
    target = torch.tensor([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]], dtype=torch.float64)
    by_hand = [-(target * (s * SCALES[0]).log_softmax(1)).sum(1).mean() for s in (s_i, s_t.T)]
    loss, _ = contrastive_loss(images, texts, SCALES, groups=torch.tensor([7, 1, 7, 3]))
    torch.testing.assert_close(loss, sum(by_hand) / 2)
    alone, _ = contrastive_loss(images, texts, SCALES, groups=torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(alone, contrastive_loss(images, texts, SCALES)[0])


def test_scale_starts_at_007_and_is_capped_without_blocking_the_gradient():
    shared = LogitScale()
    torch.testing.assert_close(shared(), torch.full((2,), 1 / 0.07))
    assert [name for name, _ in shared.named_parameters()] == ["logit_scale"]
    with torch.no_grad():
        shared.logit_scale.fill_(9.0)
    scales = shared()
    torch.testing.assert_close(scales, torch.full((2,), 100.0))
    scales.sum().backward()
    torch.testing.assert_close(shared.logit_scale.grad, torch.tensor([200.0]))
    shared.load_state_dict({"logit_scale": torch.tensor(1.5)})  # a scalar, as CLIP's weights and older runs hold it
    assert shared.logit_scale.tolist() == [1.5]


def test_a_colder_image_to_text_scale_has_its_own_parameter_and_cap():
    scale = LogitScale(colder=10)
    torch.testing.assert_close(scale(), torch.tensor([10 / 0.07, 1 / 0.07]))
    with torch.no_grad():
        scale.logit_scale_image.fill_(20.0)
        scale.logit_scale.fill_(20.0)
    torch.testing.assert_close(scale(), torch.tensor([1000.0, 100.0]))


def test_selection_keeps_the_tokens_with_the_highest_product_in_the_batch():
    images, mask = Features(unit(3, 10, 8)), prefix_mask([8, 1, 0], 8)
    texts = masked(unit(3, 8, 8, seed=1), mask)
    products = torch.einsum("ikd,jld->ikjl", images.tokens, texts.tokens)
    patch_score = products.masked_fill(~mask, -2).amax((2, 3))
    kept = select_tokens(images, texts, 0.25)
    assert kept.mask is None and kept.tokens.shape == (3, 3, 8)
    for i in range(3):
        best = images.tokens[i, patch_score[i].topk(3).indices]
        torch.testing.assert_close(kept.tokens[i], best)
    words = select_tokens(texts, images, 0.25)
    assert words.mask.tolist() == [[True, True], [True, False], [False, False]]
    word_score = products.amax((0, 1))
    torch.testing.assert_close(words.tokens[0], texts.tokens[0, word_score[0].topk(2).indices])
    torch.testing.assert_close(words.tokens[1], torch.stack([texts.tokens[1, 0], torch.zeros(8, dtype=torch.float64)]))


def test_a_token_that_is_not_chosen_learns_only_from_its_own_side():
    image_tokens, text_tokens = unit(6, 12, 8).requires_grad_(), unit(6, 8, 8, seed=1).requires_grad_()
    images, texts = Features(image_tokens), Features(text_tokens)
    far = select_tokens(texts, images, 0.25)
    (gradient,) = torch.autograd.grad(image_similarity(images, far).pow(2).sum(), text_tokens)
    assert ((gradient.abs().amax(2) > 0).sum(1) <= 2).all()  # of 8 words, only the 2 chosen ones
    loss, _ = contrastive_loss(images, texts, SCALES, exchange=Exchange(keep=0.25))
    (gradient,) = torch.autograd.grad(loss, text_tokens)
    assert (gradient.abs().amax(2) > 0).all()  # as words of their own text they all ask for a patch


def test_the_papers_exchange_stays_close_to_the_exact_loss_in_half_precision():
    images, texts = Features(unit(8, 16, 32).float()), Features(unit(8, 6, 32, seed=1).float())
    exact, _ = contrastive_loss(images, texts, SCALES.float())
    half, _ = contrastive_loss(images, texts, SCALES.float(), exchange=Exchange(half=True))
    assert half.dtype == torch.float32 and half != exact
    torch.testing.assert_close(half, exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 1.5}, {"keep": 0.5, "local_loss": False}])
def test_impossible_exchanges_are_refused(wrong):
    with pytest.raises(ValueError, match="keep"):
        Exchange(**wrong)


def test_prompt_ensembles_average_similarities_or_vectors():
    images, prompts = Features(unit(3, 9, 8)), masked(unit(10, 4, 8, seed=1), prefix_mask([4, 2] * 5, 4))
    s_i = image_similarity(images, prompts)
    scores = ensemble_similarity(images, prompts, templates=5)
    torch.testing.assert_close(scores, torch.stack([s_i[:, :5].mean(1), s_i[:, 5:].mean(1)], 1))
    x, y = unit(3, 1, 8), unit(10, 1, 8, seed=1)
    means = F.normalize(y[:, 0].view(2, 5, 8).mean(1), dim=-1)
    torch.testing.assert_close(ensemble_similarity(Features(x), Features(y), 5), x[:, 0] @ means.T)


class NoisyFilip(Filip):
    """Drops patches at random, so that the two passes over a chunk agree only if random numbers are replayed."""

    def reduce(self, tokens):
        return F.dropout(tokens, 0.3, self.training)


def batch(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, 64, 64, generator=generator, dtype=torch.float64)
    tokens = torch.randint(4, 500, (count, 32), generator=generator)
    mask = prefix_mask([5, 32, 2, 17, 9, 12, 3, 20][:count], 32)
    return pixels, tokens, mask


def test_the_loss_of_sums_is_cross_entropy_over_naive_sums():
    images, mask = Features(unit(6, 9, 8)), prefix_mask([5, 1, 3, 2, 4, 5], 5)
    texts = masked(unit(6, 5, 8, seed=1), mask)
    s_i, s_t = naive_token_similarity(images.tokens, texts.tokens, mask, reduce="sum")
    target = torch.arange(6)
    expected = F.cross_entropy(SCALES[0] * s_i, target) + F.cross_entropy(SCALES[1] * s_t.T, target)
    loss, _ = contrastive_loss(images, texts, SCALES, reduce="sum")
    torch.testing.assert_close(loss, expected / 2)
    assert abs(loss - contrastive_loss(images, texts, SCALES)[0]) > 0.1


def split(inputs, size):
    return list(zip(*(x.split(size) for x in inputs), strict=True))


def loss_of(encoded: Encoded):
    return contrastive_loss(encoded.images, encoded.texts, encoded.scales)


def parameter_gradients(model):
    result = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return result


@pytest.mark.parametrize("config", [FILIP["tiny"], CLIP["tiny"]], ids=["token-wise", "global"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_cached_accumulation_gives_every_parameter_the_large_batchs_gradient(config, size):
    torch.manual_seed(0)
    model = Filip(config).double()
    whole, metrics = loss_of(model(*batch()))
    whole.backward()
    expected = parameter_gradients(model)
    loss, cached_metrics = accumulated_backward(model, split(batch(), size), loss_of)
    ours = parameter_gradients(model)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(cached_metrics, metrics)
    assert ours.keys() == expected.keys() and "scale.logit_scale" in ours
    assert {n for n, p in model.named_parameters()} == ours.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_cached_accumulation_replays_random_numbers_and_moves_the_generator_on_once():
    torch.manual_seed(0)
    model = NoisyFilip(FILIP["tiny"]).double()
    torch.manual_seed(1)
    parts = [model(*chunk) for chunk in split(batch(), 4)]
    after = torch.rand(3)
    images, texts = (Features(torch.cat([getattr(p, k).tokens for p in parts])) for k in ("images", "texts"))
    mask = torch.cat([p.texts.mask for p in parts])
    loss_of(Encoded(images, Features(texts.tokens, mask), parts[0].scales))[0].backward()
    expected = parameter_gradients(model)
    torch.manual_seed(1)
    accumulated_backward(model, split(batch(), 4), loss_of)
    assert torch.equal(torch.rand(3), after)
    for name, gradient in parameter_gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("chunks", [2, 4])
def test_open_clips_accumulation_counts_only_logit_scale_once_a_chunk(chunks):
    """open_clip #761, #957: its `--accum-freq` loop, word for word, on its own ClipLoss."""
    torch.manual_seed(0)
    model = Filip(CLIP["tiny"]).double()
    inputs = split(batch(), 8 // chunks)

    def loss(images, texts, scales):
        return ClipLoss()(images[:, 0], texts[:, 0], scales[0])

    encoded = model(*batch())
    loss(encoded.images.tokens, encoded.texts.tokens, encoded.scales).backward()
    expected = parameter_gradients(model)
    with torch.no_grad():
        parts = [model(*chunk) for chunk in inputs]
    cached = {k: [getattr(p, k).tokens for p in parts] for k in ("images", "texts")}
    for j, chunk in enumerate(inputs):
        again = model(*chunk)
        whole = [torch.cat([*c[:j], getattr(again, k).tokens, *c[j + 1 :]]) for k, c in cached.items()]
        loss(*whole, again.scales).backward()
    ours = parameter_gradients(model)
    for name, gradient in expected.items():
        factor = chunks if name == "scale.logit_scale" else 1
        torch.testing.assert_close(ours[name], gradient * factor, rtol=1e-9, atol=1e-12, msg=name)


def test_cached_accumulation_syncs_only_with_the_last_chunk():
    model, entered = Filip(FILIP["tiny"]).double(), []

    class NoSync:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            return None

    accumulated_backward(model, split(batch(), 2), loss_of, no_sync=NoSync)
    assert len(entered) == 3


def test_initial_loss_is_that_of_guessing():
    """Random towers cannot tell pairs apart: the loss starts near log b, so scales and means are of the right size."""
    torch.manual_seed(0)
    loss, metrics = loss_of(Filip(FILIP["tiny"]).double()(*batch()))
    assert abs(loss.item() - math.log(8)) < 0.5
    assert 0 <= metrics["accuracy_image"] <= 1

"""The blockwise token-wise similarity against its definition."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import naive_token_similarity
from torch.utils._python_dispatch import TorchDispatchMode

from lt.models.nn.maxsim import token_similarity

torch.set_num_threads(1)


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1).requires_grad_()


def loss_of(s_i, s_t):
    """A symmetric contrastive loss at temperature 0.07, over square similarities."""
    target = torch.arange(len(s_i))
    return (F.cross_entropy(s_i / 0.07, target) + F.cross_entropy(s_t.T / 0.07, target)) / 2


def gradients(value, *leaves):
    return torch.autograd.grad(value, leaves, retain_graph=True)


@st.composite
def shapes(draw):
    b, c, n, length = (draw(st.integers(1, 6)) for _ in range(4))
    d = draw(st.integers(2, 8))  # at d = 1 all products are +-1: exact ties, which amax shares out and max does not
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    mask = draw(st.lists(row, min_size=c, max_size=c))
    settings = {"block": draw(st.integers(1, 300)), "compiled": draw(st.booleans())}
    reduce = draw(st.sampled_from(["mean", "sum"]))
    return b, c, n, length, d, torch.tensor(mask), reduce, settings, draw(st.integers(0, 9999))


@settings(max_examples=150, deadline=None)
@given(shapes())
def test_values_and_float64_gradients_are_those_of_the_definition(case):
    b, c, n, length, d, mask, reduce, how, seed = case  # any mask: holes, empty texts, all full
    v, t = unit(b, n, d, seed=seed), unit(c, length, d, seed=seed + 1)
    grad_i, grad_t = torch.randn(2, b, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    results = []
    for s_i, s_t in (
        naive_token_similarity(v, t, mask, reduce=reduce),
        token_similarity(v, t, mask, reduce=reduce, **how),
    ):
        results.append((s_i, s_t, *gradients((s_i * grad_i).sum() + (s_t * grad_t).sum(), v, t)))
    for naive, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("length", [1, 5, 32])
def test_fp32_loss_and_float64_gradients_at_a_training_shape(length, compiled):
    mask = torch.arange(length) < torch.randint(0, length + 1, (24, 1), generator=torch.Generator().manual_seed(1))
    v, t = unit(24, 49, 64), unit(24, length, 64, seed=1)
    naive, ours = (
        loss_of(*naive_token_similarity(v, t, mask)),
        loss_of(*token_similarity(v, t, mask, block=9000, compiled=compiled)),
    )
    for a, b in zip(gradients(ours, v, t), gradients(naive, v, t), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    in_fp32 = loss_of(*token_similarity(v.float(), t.float(), mask, compiled=compiled))
    assert abs(in_fp32.item() - naive.item()) <= 1e-5 * max(1, naive.item())


@pytest.mark.parametrize("compiled", [False, True])
def test_more_than_256_patches_and_one_sided_calls(compiled):
    v, t = unit(3, 300, 8), unit(4, 6, 8, seed=1)
    s_i, s_t = token_similarity(v, t, compiled=compiled)
    only_i, nothing = token_similarity(v, t, wanted="image", compiled=compiled)
    nothing_either, only_t = token_similarity(v, t, wanted="text", compiled=compiled)
    assert nothing is None and nothing_either is None
    assert torch.equal(only_i, s_i) and torch.equal(only_t, s_t)
    naive = naive_token_similarity(v, t)
    for ours, reference in ((only_i, naive[0]), (only_t, naive[1])):
        for a, b in zip(gradients(ours.sum(), v, t), gradients(reference.sum(), v, t), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_sum_is_so_many_times_the_mean_and_orders_rows_alike():
    v, t = unit(4, 9, 8).detach(), unit(5, 6, 8, seed=1).detach()
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 2, 4])[:, None]
    mean_i, mean_t = token_similarity(v, t, mask)
    sum_i, sum_t = token_similarity(v, t, mask, reduce="sum")
    torch.testing.assert_close(sum_i, 9 * mean_i)
    torch.testing.assert_close(sum_t, mean_t * torch.tensor([6, 3, 1, 2, 4]))
    assert torch.equal(sum_i.argsort(1), mean_i.argsort(1)) and torch.equal(sum_t.argsort(0), mean_t.argsort(0))
    (one_sided, _), (_, other_sided) = (token_similarity(v, t, mask, wanted=w, reduce="sum") for w in ("image", "text"))
    assert torch.equal(one_sided, sum_i) and torch.equal(other_sided, sum_t)


def test_an_empty_text_is_worth_zero_and_has_no_gradient():
    v, t = unit(2, 3, 4), unit(2, 5, 4, seed=1)
    mask = torch.tensor([[True] * 5, [False] * 5])
    s_i, s_t = token_similarity(v, t, mask)
    assert s_i[:, 1].tolist() == [0, 0] and s_t[:, 1].tolist() == [0, 0]
    assert gradients(s_i.sum() + s_t.sum(), t)[0][1].abs().max() == 0


def test_order_of_patches_and_length_of_padding_change_nothing():
    v, t = unit(4, 9, 8), unit(4, 5, 8, seed=1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 2])[:, None]
    longer = torch.cat([t, unit(4, 7, 8, seed=2)], 1)
    longer_mask = torch.cat([mask, torch.zeros(4, 7, dtype=torch.bool)], 1)
    shuffled = v[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    for ours, reference in zip(
        token_similarity(shuffled, longer, longer_mask), token_similarity(v, t, mask), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-14)


def released_wukong_similarity(first, second, mask=None):
    """Noah-WuKong's evaluation formula: max over the second's tokens, mean over the first's; pads are zero vectors."""
    best = torch.einsum("ikd,jld->ijkl", first, second).max(3)[0]
    return best.mean(2) if mask is None else best.sum(2) / mask.sum(1, keepdim=True).clamp(min=1)


def test_zero_pads_reproduce_the_score_released_with_wukong():
    v, t = unit(6, 12, 4), unit(5, 8, 4, seed=1)
    mask = torch.arange(8) < torch.tensor([8, 5, 2, 1, 0])[:, None]
    zeroed = t * mask[..., None]
    s_i, s_t = token_similarity(v, t, mask, pads="zero", block=100)
    torch.testing.assert_close(s_i, released_wukong_similarity(v, zeroed))
    torch.testing.assert_close(s_t, released_wukong_similarity(zeroed, v, mask).T)
    excluded, _ = token_similarity(v, t, mask)
    assert (s_i - excluded).max() > 0.01  # the rule matters: a zero beats negative matches
    reference = gradients(released_wukong_similarity(v, t * mask[..., None]).sum(), v, t)
    for a, b in zip(gradients(s_i.sum(), v, t), reference, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_products_keep_gradients_that_fp16_cannot_hold():
    v, t = unit(8, 16, 32, dtype=torch.float32), unit(8, 6, 32, seed=1, dtype=torch.float32)
    exact = token_similarity(v, t)
    for product in (torch.float16, torch.bfloat16):
        rounded = token_similarity(v, t, product=product)
        assert rounded[0].dtype == torch.float32
        torch.testing.assert_close(rounded[0], exact[0], rtol=0, atol=2e-2)
        upstream = 1e-9  # far below fp16's smallest number, 6e-8
        ours = gradients((rounded[0].sum() + rounded[1].sum()) * upstream, v)[0]
        reference = gradients((exact[0].sum() + exact[1].sum()) * upstream, v)[0]
        assert (ours - reference).norm() < 0.2 * reference.norm()  # a few near-ties pick another winner


class Largest(TorchDispatchMode):
    """Remembers the largest tensor any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.untyped_storage().nbytes() // part.element_size())
        return result


@pytest.mark.parametrize("compiled", [False, True])
def test_a_broken_token_breaks_the_loss(compiled):
    v, t = unit(4, 9, 8).detach(), unit(4, 5, 8, seed=1)
    v[2, 3, 1] = torch.nan
    s_i, s_t = token_similarity(v, t, compiled=compiled)
    assert s_i[2].isnan().all() and s_t[2].isnan().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_threads_change_nothing(compiled):
    v, t = unit(7, 9, 8), unit(5, 6, 8, seed=1)
    single = token_similarity(v, t, compiled=compiled)
    torch.set_num_threads(2)
    try:
        double = token_similarity(v, t, compiled=compiled)
        gradient = gradients(double[0].sum() + double[1].sum(), v, t)
    finally:
        torch.set_num_threads(1)
    for a, b in zip((*single, *gradients(single[0].sum() + single[1].sum(), v, t)), (*double, *gradient), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("compiled", [False, True])
def test_all_products_are_never_held_at_once(compiled):
    b, n, length, d, block = 16, 49, 8, 4, 5000
    v, t = unit(b, n, d), unit(b, length, d, seed=1)
    with Largest() as forward:
        s_i, s_t = token_similarity(v, t, block=block, compiled=compiled)
    with Largest() as backward:
        (s_i.sum() + s_t.sum()).backward()
    positions = b * b * n
    assert forward.numel <= max(block, positions) < b * b * n * length / 7
    assert backward.numel <= max(block, positions + b * b * length) + 1  # that one is of torch.embedding_bag


def test_a_similarity_without_gradient_keeps_no_positions():
    v, t = unit(4, 9, 8), unit(4, 5, 8, seed=1)
    with torch.no_grad():
        s_i, s_t = token_similarity(v, t)
    reference = token_similarity(v, t)
    assert s_i.grad_fn is None
    assert torch.equal(s_i, reference[0]) and torch.equal(s_t, reference[1])

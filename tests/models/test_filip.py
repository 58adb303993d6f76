"""What is FILIP's own: the faithful settings and the alignment of words and patches."""

import torch

from lt.models.filip import FAITHFUL_EXCHANGE, FILIP, Filip, word_of_patch
from lt.models.nn.contrastive import Features, contrastive_loss

torch.set_num_threads(1)


def test_faithful_settings_are_the_papers():
    assert (FAITHFUL_EXCHANGE.keep, FAITHFUL_EXCHANGE.half, FAITHFUL_EXCHANGE.local_loss) == (0.25, True, True)
    for name in ("base", "base-16", "large"):
        config = FILIP[name]
        assert (config.dim, config.head, config.colder, config.ends, config.locked) == (
            256,
            "tokens",
            None,
            True,
            False,
        )
        assert abs(config.scale_start - 1 / 0.07) < 1e-12 and config.text.length == 77


def test_alignment_names_the_best_word_of_each_patch():
    basis = torch.eye(4)
    image = torch.stack([basis[0], basis[2], basis[2], basis[1] * 0.5])
    text = Features(
        torch.stack([basis[0], basis[1], basis[2], basis[3]])[None], torch.tensor([[True, True, True, False]])
    )
    word, product = word_of_patch(image, text)
    assert word.tolist() == [0, 2, 2, 1] and product.tolist() == [1, 1, 1, 0.5]
    negative = Features(-text.tokens, text.mask)  # all real matches at or below 0: the pad, worth 0, must still not win
    assert (word_of_patch(image, negative)[0] < 3).all()


def test_a_few_steps_on_one_batch_learn_it():
    """Both directions of the loss reach both towers: eight random pairs are told apart after 12 steps."""
    torch.manual_seed(0)
    model = Filip(FILIP["tiny"])
    pixels, tokens = torch.randn(8, 3, 64, 64), torch.randint(4, 500, (8, 32))
    mask = torch.arange(32) < torch.tensor([5, 9, 12, 7, 6, 14, 8, 10])[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        encoded = model(pixels, tokens, mask)
        loss, metrics = contrastive_loss(encoded.images, encoded.texts, encoded.scales)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 and metrics["accuracy_image"] == metrics["accuracy_text"] == 1

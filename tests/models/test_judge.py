"""The judge's network: heat maps and points are inverse to each other, shapes, and every part of it learns."""

import torch

from lt.models.nn.judge import JudgeNet, found_points, spread


def test_a_spread_point_is_found_again_exactly():
    torch.manual_seed(0)
    points = torch.rand(5, 17, 2) * (15 / 16) + 1 / 32  # between the outermost centres
    heat = spread(points, 16)
    assert torch.allclose(heat.sum(-1), torch.ones(5, 17)) and (heat > 0).sum(-1).max() <= 4
    assert torch.allclose(found_points(heat.log()), points, atol=1e-5)


def test_points_beyond_the_outermost_centres_move_to_them():
    corners = torch.tensor([[[0.0, 0.0], [1.0, 0.01], [0.5, 1.0]]])
    expected = torch.tensor([[[1 / 32, 1 / 32], [31 / 32, 1 / 32], [0.5, 31 / 32]]])
    assert torch.allclose(found_points(spread(corners, 16).log()), expected, atol=1e-6)


def test_a_second_peak_elsewhere_does_not_pull():
    heat = (0.6 * spread(torch.tensor([[[0.25, 0.25]]]), 16) + 0.4 * spread(torch.tensor([[[0.9, 0.9]]]), 16)).log()
    assert torch.allclose(found_points(heat), torch.tensor([[[0.25, 0.25]]]), atol=1e-6)


def test_shapes_and_gradients_reach_every_weight():
    torch.manual_seed(0)
    net = JudgeNet(points=3, classes=(2, 5), widths=(8, 12, 16), features=6)
    looked = net(torch.randn(4, 3, 32, 32))
    assert looked.heat.shape == (4, 3, 64) and looked.features.shape == (4, 6)
    assert [logits.shape for logits in looked.logits] == [(4, 2), (4, 5)]
    sum(logits.square().sum() for logits in looked.logits).backward()
    missing = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not missing


def test_one_picture_or_many_it_sees_the_same():
    torch.manual_seed(0)
    net = JudgeNet(points=3, classes=(2,), widths=(8, 12, 16), features=6).eval()
    pixels = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(pixels).features[2:3], net(pixels[2:3]).features, atol=1e-5)

"""The targets of data2vec and what its students see; the teachers of all three."""

import pytest
import torch

from models.encoders.images.vit_tokens import embed, encode, keep, marked, split, whole_patches
from models.layers.momentum import MomentumCopy
from models.methods import build_method
from models.methods.masked.data2vec import contextual_targets
from models.methods.masked.params import Data2Vec2Params
from models.training.optimizers import decay_groups
from models.training.randomness import seeded
from tests.models.tiny_vits import CPU, TAUGHT, batch_of, images, method_of, pixels_of, vit


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_moves_by_exactly_its_momentum(name):
    method = method_of(name).double()
    before = [weight.clone() for weight in method.teacher.parameters()]
    for weight in method.encoder.parameters():
        torch.nn.init.normal_(weight)
    method.after_step(0.0)
    students = method.encoder.parameters()
    for old, new, its in zip(before, method.teacher.parameters(), students, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * its, rtol=0, atol=1e-14)
    ripe = [weight.clone() for weight in method.teacher.parameters()]
    method.after_step(1.0)
    assert all(map(torch.equal, ripe, method.teacher.parameters()))


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_not_optimised_and_follows_a_training(name):
    method = method_of(name, vit(16))
    optimised = {id(w) for group in decay_groups(method, 0.1, 0.1) for w in group["params"]}
    assert not {id(w) for w in method.teacher.parameters()} & optimised
    before = [weight.clone() for weight in method.teacher.parameters()]
    for step in range(2):
        with seeded("step", step):
            loss = method.training_step(batch_of(images(size=16)))["loss"]
        loss.backward()
        torch.optim.SGD(method.encoder.parameters(), lr=0.1).step()
        method.after_step(step / 10)
    assert all(weight.grad is None for weight in method.teacher.parameters())
    assert not any(map(torch.equal, before, method.teacher.parameters()))


@pytest.mark.parametrize("top", [1, 3, 6])
def test_targets_are_the_mean_of_the_normalised_top_layers(top):
    encoder, x = vit(), images()
    teacher = MomentumCopy(encoder)
    heard = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: heard.append(output))
        for block in encoder.network.net.blocks
    ]
    with torch.no_grad():
        encoder.feature_map(x)
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(3, 49, 64)
    for layer in heard[-top:]:
        for n in range(3):
            for patch in range(49):
                token = layer[n, 1 + patch]
                spread = (token.var(correction=0) + 1e-5).sqrt()
                expected[n, patch] += (token - token.mean()) / spread / top
    target = contextual_targets(teacher, whole_patches(encoder, x), top)
    assert torch.allclose(target, expected, atol=1e-4)
    assert not target.requires_grad


def test_data2vec_hides_exactly_its_share_and_sees_none_of_it():
    method, x = method_of("data2vec"), images().requires_grad_()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    with seeded("mask"):
        hidden, masked = method._hide(whole_patches(method.encoder, x))
    assert (masked.sum(1) == round(0.6 * 49)).all() and hidden.shape == (3, round(0.6 * 49))
    assert output["metrics"]["masked_share"].item() == pytest.approx(29 / 49)
    (slope,) = torch.autograd.grad(output["loss"], x)
    assert (slope[pixels_of(masked)] == 0).all()
    assert (slope[pixels_of(~masked)] != 0).float().mean() > 0.95


def test_data2vec_loss_is_smooth_l1_at_hidden_patches():
    method, x = method_of("data2vec"), images()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    pixels = whole_patches(method.encoder, x)
    with seeded("mask"):
        _, masked = method._hide(pixels)
    target = contextual_targets(method.teacher, pixels, 3)
    tokens = encode(method.encoder, embed(method.encoder, pixels, (masked, method.mask_token)))
    prediction = method.head(split(method.encoder, tokens)[1])
    total = []
    for error in (prediction - target)[masked].flatten().tolist():
        # Equation 2 with beta = 2.
        total.append(error**2 / 4 if abs(error) <= 2 else abs(error) - 1)
    assert output["loss"].item() == pytest.approx(sum(total) / len(total), rel=1e-4)


@pytest.mark.parametrize("masks", [1, 3, 8])
def test_data2vec_2_asks_the_teacher_once_whatever_the_number_of_masks(masks):
    params = Data2Vec2Params(masks=masks)
    method, x = build_method(params, vit(), seed=0), images()
    seen = {"teacher": [], "student": []}
    for who, encoder in (("teacher", method.teacher.parts[0]), ("student", method.encoder)):
        encoder.network.net.blocks[0].register_forward_hook(
            lambda _, inputs, __, who=who: seen[who].append(tuple(inputs[0].shape))
        )
    method.training_step(batch_of(x))
    assert seen["teacher"] == [(3, 50, 64)]
    assert seen["student"] == [(3 * masks, 1 + 10, 64)]  # the class token and what is visible


def test_data2vec_2_student_never_sees_what_every_mask_hides():
    method, x = method_of("data2vec-2"), images().requires_grad_()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    with seeded("mask"):
        visible = method._draw_visible(3, (7, 7), CPU)
    assert visible.shape == (12, 10)
    seen = marked(visible, 49).view(3, 4, 49)
    assert len(seen[0].unique(dim=0)) == 4, "all masks of an image are alike"
    assert output["metrics"]["masked_share"].item() == pytest.approx(39 / 49)
    (slope,) = torch.autograd.grad(output["loss"], x)
    assert (slope[pixels_of(~seen.any(1))] == 0).all()
    assert (slope[pixels_of(seen.any(1))] != 0).float().mean() > 0.95


def test_data2vec_2_prediction_of_a_mask_has_no_slope_in_what_it_hides():
    method = method_of("data2vec-2")
    pixels = whole_patches(method.encoder, images()).requires_grad_()
    visible = method._draw_visible(3, (7, 7), CPU)
    tokens = embed(method.encoder, pixels).repeat_interleave(4, 0)
    encoded = encode(method.encoder, keep(method.encoder, tokens, visible))
    prediction = method._decode(split(method.encoder, encoded)[1], visible, (7, 7))
    for mask in (0, 5, 11):
        (slope,) = torch.autograd.grad(prediction[mask].square().sum(), pixels, retain_graph=True)
        seen = pixels_of(marked(visible[mask : mask + 1], 49))[0]
        assert (slope[mask // 4][~seen] == 0).all()
        assert (slope[mask // 4][seen] != 0).float().mean() > 0.95
        others = [n for n in range(3) if n != mask // 4]
        assert (slope[others] == 0).all()


def test_data2vec_2_loss_is_the_squared_error_of_hidden_patches():
    method, x = method_of("data2vec-2"), images()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    pixels = whole_patches(method.encoder, x)
    target = contextual_targets(method.teacher, pixels, 3)
    with seeded("mask"):
        visible = method._draw_visible(3, (7, 7), CPU)
        encoded = encode(
            method.encoder,
            keep(method.encoder, embed(method.encoder, pixels).repeat_interleave(4, 0), visible),
        )
        prediction = method._decode(split(method.encoder, encoded)[1], visible, (7, 7))
    errors = []
    for row in range(12):
        for patch in set(range(49)) - set(visible[row].tolist()):
            errors.append((prediction[row, patch] - target[row // 4, patch]).square().mean())
    assert output["loss"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)

import pytest
import torch
import torch.nn.functional as F

from models.encoders.features import extract_features
from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams, Readout
from models.errors import ModelError
from tests.models.easy_images import easy_images, small_encoder


def build(name, channels=3, size=32, seed=0, **shape):
    params = EncoderParams(name=name, **shape)
    return build_encoder(params, channels, size, [0.5] * channels, [0.25] * channels, seed=seed)


def test_resnet_tiny_takes_its_shape_from_the_params():
    encoder = build("resnet_tiny", widths=(8, 16, 24), blocks=(2, 1, 1), strides=(1, 2, 2))
    maps = encoder.feature_map(torch.rand(2, 3, 32, 32))
    assert maps.shape == (2, 24, 4, 4)
    assert encoder.features_dim == 24
    assert [len(stage) for stage in encoder.network.stages] == [2, 1, 1]


def test_unequal_numbers_of_stages_are_refused():
    with pytest.raises(ValueError, match="one entry for each stage"):
        EncoderParams(widths=(8, 16), blocks=(1,), strides=(1, 2))


def test_normalisation_is_inside_and_travels_with_the_weights():
    encoder = small_encoder().eval()
    raw = build_encoder(
        EncoderParams(stem_width=8, widths=(16, 16)), 1, 16, [0.0], [1.0], seed=0
    ).eval()
    images = torch.rand(3, 1, 16, 16)
    assert torch.allclose(encoder(images), raw((images - 0.4) / 0.2), atol=1e-5)
    assert {"mean", "std"} <= set(encoder.state_dict())


def test_readout_puts_the_maps_of_the_last_stages_side_by_side():
    encoder = small_encoder().eval()
    images = torch.rand(2, 1, 16, 16)
    early, late = encoder.network.feature_maps((images - 0.4) / 0.2, 2)
    assert (early.shape[-1], late.shape[-1]) == (4, 2)
    expected = torch.cat([early.flatten(1), late.flatten(1)], dim=1)
    assert torch.allclose(encoder.read_out(images, Readout(grid=7, stages=2)), expected, atol=1e-5)
    halved = torch.cat([F.avg_pool2d(early, 2).flatten(1), late.flatten(1)], dim=1)
    assert torch.allclose(encoder.read_out(images, Readout(grid=2, stages=2)), halved, atol=1e-5)
    assert torch.equal(encoder.read_out(images, Readout()), encoder(images))


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("readout", [Readout(), Readout(grid=3), Readout(grid=3, stages=2)])
def test_views_of_any_size_give_features_of_the_same_width(name, readout):
    encoder = build(name, size=28, readout=readout)
    for side in (8, 20, 28, 40, 64):
        assert encoder(torch.rand(2, 3, side, side)).shape == (2, encoder.features_dim), side


def test_maps_of_other_sizes_are_averaged_or_repeated_to_those_of_whole_images():
    encoder = small_encoder().eval()
    large, small = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 8, 8)
    averaged = F.avg_pool2d(encoder.feature_map(large), 2)
    repeated = encoder.feature_map(small).expand(-1, -1, 2, 2)
    for images, expected in ((large, averaged), (small, repeated)):
        found = encoder.read_out(images, Readout(grid=7))
        assert torch.allclose(found, expected.flatten(1), atol=1e-5)


def test_encoder_that_takes_one_size_only_says_so():
    encoder = build("deit_tiny_patch16_224", size=28, patch_size=8, readout=Readout(grid=2))
    with pytest.raises(ModelError, match=r"28 pixels only, not of 20; set .*view_size to null"):
        encoder(torch.rand(2, 3, 20, 20))


@pytest.mark.parametrize("size", [12, 18, 28, 40])
def test_plain_vit_takes_views_of_any_size(size):
    encoder = build("test_vit", size=28, patch_size=4, readout=Readout(grid=2))
    images = torch.rand(2, 3, size, size)
    assert encoder(images).shape == (2, encoder.features_dim)
    assert encoder.feature_map(images).shape[2:] == (-(-size // 4),) * 2


def test_more_stages_than_there_are_is_explained():
    with pytest.raises(ModelError, match="has 3 stages, stem included, not 9"):
        small_encoder().read_out(torch.rand(1, 1, 16, 16), Readout(stages=9))
    with pytest.raises(ModelError, match="fewer than 9 stages"):
        build("resnet18").read_out(torch.rand(2, 3, 32, 32), Readout(stages=9))


def test_same_seed_gives_same_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (small_encoder(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_unknown_name_is_refused_with_the_nearest_names():
    with pytest.raises(ModelError, match="resnet18"):
        build("resnet19")


def test_names_that_would_fetch_over_the_network_are_refused():
    with pytest.raises(ModelError, match="neither resnet_tiny nor in timm"):
        build("hf-hub:timm/resnet18.a1_in1k")


@pytest.mark.parametrize(("size", "expected"), [(32, 4), (128, 4)])
def test_timm_resnet_has_the_small_image_stem_up_to_64_px_only(size, expected):
    encoder = build("resnet18", size=size).eval()
    assert encoder.feature_map(torch.rand(1, 3, size, size)).shape[-1] == expected


def test_vit_pads_images_that_its_patches_do_not_divide():
    encoder = build("vit_tiny_patch16_224", size=28, patch_size=8).eval()
    assert encoder.feature_map(torch.rand(2, 3, 28, 28)).shape == (2, 192, 4, 4)


def test_wrong_channels_are_explained():
    with pytest.raises(ModelError, match=r"\(N, 1, H, W\)"):
        small_encoder()(torch.rand(2, 3, 16, 16))
    with pytest.raises(ModelError, match="3 entries"):
        build_encoder(EncoderParams(), 3, 32, [0.5], [0.5])


def test_extraction_leaves_no_trace_on_a_training():
    encoder = small_encoder().train()
    encoder.network.stem.eval()
    modes = [module.training for module in encoder.modules()]
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rng = torch.get_rng_state()

    features = extract_features(encoder, easy_images(10)[0], batch_size=4)

    assert features.shape == (10, 16)
    assert not features.requires_grad
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(state[name], t) for name, t in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_extraction_does_not_depend_on_the_batch_size_or_the_image_type():
    encoder = small_encoder()
    images = easy_images(10)[0]
    whole = extract_features(encoder, images)
    floats = images.permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(whole, extract_features(encoder, images, batch_size=3), atol=1e-5)
    assert torch.allclose(whole, extract_features(encoder, floats), atol=1e-5)

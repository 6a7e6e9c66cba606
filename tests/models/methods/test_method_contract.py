"""Every method with every family of encoders, held to the same contract."""

import copy
import io

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from data.images.augment import build_augmenter
from data.images.augment.params import AugmentationParams
from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams, Readout
from models.encoders.weights import load_weights, save_weights
from models.errors import ModelError
from models.learners import LEARNERS, LinearProbeParams, build_classifier
from models.methods import MethodParams, build_method
from models.methods.registry import METHODS
from models.training.optimizers import build_optimizer, decay_groups
from models.training.randomness import seeded

# One of each family, small enough to be held to everything.
SMALL = {
    "cnn": EncoderParams(stem_width=8, widths=(16, 16), readout=Readout(grid=2)),
    "vit": EncoderParams(name="test_vit", patch_size=4),
}
ENCODERS = ["resnet_tiny", "resnet18", "vit_tiny_patch16_224", "convnext_atto"]


def build(name, channels, size, seed=0, patch_size=None):
    params = EncoderParams(name=name, patch_size=patch_size)
    return build_encoder(params, channels, size, [0.5] * channels, [0.25] * channels, seed=seed)


# Methods that take images of so many channels only; the others take any number.
CHANNELS = {"colorization": 3}


def settings(name):
    return TypeAdapter(MethodParams).validate_python({"name": name})


def views(name, channels, size, count=4):
    """As many views as the method takes, each the image under noise of its own; then crops."""
    channels = CHANNELS.get(name, channels)
    generator = torch.Generator().manual_seed(7)
    image = torch.rand(count, channels, size, size, generator=generator)
    noise = torch.rand(views_of(name), count, channels, size, size, generator=generator)
    views = list(0.8 * image + 0.2 * noise)
    for number in range(settings(name).views, len(views)):
        views[number] = views[number][..., 4:12, 4:12]
    return {"views": views, "index": torch.arange(count)}


def views_of(name):
    return settings(name).views + getattr(settings(name), "local_views", 0)


def method_for(name, encoder, seed=0):
    method = build_method(settings(name), encoder, seed)
    method.expect(1000)
    return method


def small(name, family, channels=None, seed=0):
    channels = channels or CHANNELS.get(name, 1)
    encoder = build_encoder(
        SMALL[family], channels, 16, [0.5] * channels, [0.25] * channels, seed=seed
    )
    return method_for(name, encoder, seed)


def accepts(name, family):
    try:
        small(name, family)
    except ModelError:
        return False
    return True


# Every pair that goes together; the others are named in `REFUSED`.
PAIRS = [(name, family) for name in METHODS for family in SMALL if accepts(name, family)]
REFUSED: dict[tuple[str, str], str] = {
    ("mae", "cnn"): "encoder.name to test_vit .* or choose the method simmim",
    ("i-jepa", "cnn"): "encoder.name to test_vit .* or choose the method simmim",
    ("data2vec", "cnn"): "encoder.name to test_vit .* or choose the method simmim",
    ("data2vec-2", "cnn"): "encoder.name to test_vit .* or choose the method simmim",
}


def optimizer_for(method):
    # Small, since a student that equals its teacher is near the best it can be for it.
    return build_optimizer("adamw", decay_groups(method, lr=1e-5, weight_decay=0.01))


def step(method, optimizer, batch, number=0):
    """One step as `models.pretraining.module` makes it; gives the loss before it."""
    with seeded("step", number):
        loss = method.training_step(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.after_step(number / 10)
    return loss.item()


def test_every_method_that_can_be_set_is_registered():
    (names,) = [m["mapping"] for m in [TypeAdapter(MethodParams).json_schema()["discriminator"]]]
    assert set(names) == set(METHODS)
    assert set(LEARNERS) == {"finetune", "linear-probe"}


def test_only_the_wrong_pairings_are_refused_and_with_a_remedy():
    refused = {(name, family) for name in METHODS for family in SMALL} - set(PAIRS)
    assert refused == set(REFUSED)
    for (name, family), remedy in REFUSED.items():
        with pytest.raises(ModelError, match=remedy):
            small(name, family)


@pytest.mark.parametrize(
    ("method_name", "name"),
    [(m, e) for m in METHODS for e in ENCODERS if (m, "vit" if "vit" in e else "cnn") in PAIRS],
)
def test_a_step_reaches_every_parameter(method_name, name):
    method = method_for(method_name, build(name, 3, 16, patch_size=4))
    output = method.training_step(views(method_name, 3, 16))
    assert output["loss"].shape == ()
    assert torch.isfinite(output["loss"])
    output["loss"].backward()
    for parameter_name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
        else:
            assert parameter.grad is None, parameter_name


@pytest.mark.parametrize(("method_name", "family"), PAIRS)
def test_two_steps_lower_the_loss_on_a_fixed_batch(method_name, family):
    method, batch = small(method_name, family), views(method_name, 1, 16, count=16)
    trained = {name for name, weight in method.named_parameters() if weight.requires_grad}
    before = copy.deepcopy(method.state_dict())
    optimizer = optimizer_for(method)
    losses = []
    for _ in range(3):
        losses.append(step(method, optimizer, batch))
        # The loss as a function of what is trained: a teacher that has moved, or a queue that
        # holds this very batch by now, sets another task.
        after = method.state_dict()
        method.load_state_dict({k: after[k] if k in trained else before[k] for k in before})
    assert losses[2] < losses[0]


@pytest.mark.parametrize(("method_name", "family"), PAIRS)
def test_state_makes_the_round_trip_through_a_checkpoint(method_name, family):
    batch = views(method_name, 1, 16, count=8)
    method, other = small(method_name, family), small(method_name, family, seed=1)
    optimizer, its = optimizer_for(method), optimizer_for(other)
    step(method, optimizer, batch)
    file = io.BytesIO()
    torch.save([method.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    state, moments = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    its.load_state_dict(moments)
    for number in (1, 2):
        losses = [step(m, o, batch, number) for m, o in ((method, optimizer), (other, its))]
        assert losses[0] == losses[1]
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(("method_name", "family"), PAIRS)
def test_exported_encoder_gives_the_same_features_and_holds_nothing_else(
    method_name, family, tmp_path
):
    channels = CHANNELS.get(method_name, 1)
    method, plain = small(method_name, family), small("simclr", family, channels, seed=1).encoder
    step(method, optimizer_for(method), views(method_name, 1, 16))
    save_weights(method.encoder, tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == set(plain.state_dict())
    load_weights(plain, tmp_path / "w.safetensors")
    images = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(method.encoder.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("engine", ["batched", "albumentations"])
def test_method_takes_what_the_engine_makes_of_any_channels(method_name, channels, engine):
    policy = AugmentationParams(engine=engine, crop_scale=(0.5, 1.0), hflip=0.5)
    augment = build_augmenter(policy, 16, channels)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 16, 16, channels), generator=generator, dtype=torch.uint8)
    family = next(family for name, family in PAIRS if name == method_name)
    if channels != CHANNELS.get(method_name, channels):
        with pytest.raises(ModelError, match="set data.channels to 3"):
            small(method_name, family, channels)
        return
    method = small(method_name, family, channels)
    views = [augment(images, seed) for seed in range(views_of(method_name))]
    output = method.training_step({"views": views, "index": torch.arange(8)})
    assert torch.isfinite(output["loss"])
    if "embeddings" in output:
        assert output["embeddings"].ndim == 2
    numbers = output.get("metrics", {})
    assert all(number.shape == () and torch.isfinite(number) for number in numbers.values())
    taken = {"loss", "lr", "epoch", "rankme", "feature_std", "knn"}
    assert not (taken | {"embedding_rank", "embedding_std"}) & set(numbers)


@pytest.mark.parametrize(("method_name", "family"), PAIRS)
def test_pictures_are_images_as_many_as_are_shown(method_name, family):
    method = small(method_name, family).eval()
    images = views(method_name, 1, 16)["views"][0]
    with torch.no_grad(), seeded("pictures"):
        rows = method.pictures(images)
    for caption, row in rows.items():
        assert row.shape == images.shape, caption
        assert (row >= 0).all() and (row <= 1).all(), caption


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_views_is_refused(method_name, more):
    family = next(family for name, family in PAIRS if name == method_name)
    batch = views(method_name, 1, 16)
    batch["views"] = [*batch["views"], batch["views"][0]][: len(batch["views"]) + more]
    with pytest.raises(ModelError, match=f"of an image, got {len(batch['views'])}"):
        small(method_name, family).training_step(batch)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_their_promised_shapes(name, size, channels):
    encoder = build(name, channels, size).eval()
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        assert encoder(images).shape == (2, encoder.features_dim)
        height, width = encoder.feature_map(images).shape[2:]
        assert height == width >= 1
        for readout in (Readout(), Readout(grid=2), Readout(grid=3, stages=2)):
            dim = encoder.read_out_dim(readout)
            assert encoder.read_out(images, readout).shape == (2, dim)


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_make_the_round_trip(name, tmp_path):
    def classifier(seed):
        return build_classifier(
            LinearProbeParams(readout=Readout(grid=2, stages=2)), build(name, 3, 32, seed), 5
        ).eval()

    saved, loaded = classifier(0), classifier(1)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(saved(images), loaded(images))
        save_weights(saved, tmp_path / "w.safetensors")
        load_weights(loaded, tmp_path / "w.safetensors")
        assert torch.equal(saved(images), loaded(images))

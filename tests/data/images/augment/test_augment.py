"""One policy, two engines: each knob is held to the same statistics in both.

Every test measures one knob in both engines on the same images and compares the distributions by a
two-sample Kolmogorov-Smirnov test or a rate with its sampling noise; seeds are fixed, so a result
does not vary from run to run.
"""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from data.images.augment import build_augmenter
from data.images.augment.augmenter import to_float
from data.images.augment.batched import BatchedAugmenter, blur, shift_hue
from data.images.augment.params import AugmentationParams

COUNT, SIZE = 600, 64
ENGINES = ("batched", "albumentations")


def views(engine, images, seed=1, **knobs):
    params = AugmentationParams(engine=engine, **knobs)
    return build_augmenter(params, images.shape[1], images.shape[3])(images, seed)


def coordinates(count=COUNT):
    """Red rises from left to right, green from top to bottom: a view tells where it was taken."""
    ramp = np.round(np.linspace(30, 225, SIZE)).astype(np.uint8)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = ramp[None, :], ramp[:, None], 128
    return torch.from_numpy(image).expand(count, -1, -1, -1).contiguous()


def photographs(count=COUNT, channels=3):
    """Smooth random colours, like small photographs; the same ones each time."""
    return _photographs(count, channels).clone()


@cache
def _photographs(count, channels):
    random = np.random.default_rng(0)
    waves = random.normal(size=(count, 6, channels, 1, 1))
    angle = random.uniform(0, 9, (2, count, 6, 1, 1, 1))
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images = (waves * np.sin(angle[0] * x + angle[1] * y + waves)).sum(1)
    images = 0.5 + 0.12 * images + 0.02 * random.normal(size=images.shape)
    pixels = np.rint(images.clip(0, 1) * 255).astype(np.uint8)
    return torch.from_numpy(pixels.transpose(0, 2, 3, 1).copy())


def boxes(result):
    """Where views of `coordinates` were taken: width, height, centre x and y, in [0, 1]."""
    middle = slice(SIZE // 4, 3 * SIZE // 4)

    def slope_and_mean(values):
        values = (values[:, middle].numpy() * 255 - 30) / 195
        steps = np.arange(SIZE)[middle] / SIZE
        centred = steps - steps.mean()
        return (values @ centred) / (centred @ centred), values.mean(axis=1)

    width, x = slope_and_mean(result[:, 0].mean(dim=1))
    height, y = slope_and_mean(result[:, 1].mean(dim=2))
    return {"width": width, "height": height, "x": x, "y": y}


def assert_same_distribution(first, second):
    first, second = np.asarray(first), np.asarray(second)
    result = ks_2samp(first, second)
    assert result.pvalue > 0.002, f"means {np.mean(first):.4f}, {np.mean(second):.4f}: {result}"


def assert_same_rate(first, second, expected):
    noise = 4 * np.sqrt(expected * (1 - expected) / COUNT)
    assert abs(first.float().mean() - expected) < noise
    assert abs(second.float().mean() - expected) < noise


def both(images, **knobs):
    return [views(engine, images, **knobs) for engine in ENGINES]


def test_an_empty_policy_changes_nothing():
    images = photographs(4)
    for result in both(images):
        assert torch.equal(result, to_float(images))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_a_float_image_in_channels_last_memory(engine, channels):
    images = photographs(8, channels)
    everything = {
        "crop_scale": (0.2, 1), "hflip": 0.5, "vflip": 0.5, "rotate": 30, "brightness": 0.4,
        "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "jitter_p": 0.8, "grayscale": 0.5,
        "blur": 0.5, "solarize": 0.5, "noise": 0.1, "erase": 0.5,
    }  # fmt: skip
    before = images.clone()
    result = views(engine, images, **everything)
    assert result.shape == (8, channels, SIZE, SIZE) and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(result, views(engine, images, **everything))
    assert not torch.equal(result, views(engine, images, seed=2, **everything))


def test_crops_have_the_same_area_aspect_and_position():
    first, second = (boxes(r) for r in both(coordinates(), crop_scale=(0.2, 0.9)))
    for measure in ("x", "y"):
        assert_same_distribution(first[measure], second[measure])
    for combine in (np.multiply, np.divide):
        assert_same_distribution(
            combine(first["width"], first["height"]), combine(second["width"], second["height"])
        )


def test_the_crop_ratio_is_kept_by_both():
    for result in both(coordinates(200), crop_scale=(0.1, 0.3), crop_ratio=(2.0, 2.5)):
        box = boxes(result)
        ratio = box["width"] / box["height"]
        # Whole pixels blur the ratio of albumentations' crops.
        assert ratio.min() > 1.8 and ratio.max() < 2.8 and abs(ratio.mean() - 2.25) < 0.05


@pytest.mark.parametrize(("knob", "measure"), [("hflip", "width"), ("vflip", "height")])
def test_flips_mirror_their_axis_at_the_given_rate(knob, measure):
    results = [boxes(r) for r in both(coordinates(), **{knob: 0.3})]
    flipped = [torch.from_numpy(box[measure] < 0) for box in results]
    assert_same_rate(*flipped, 0.3)
    other = "height" if measure == "width" else "width"
    assert all((box[other] > 0).all() for box in results)


def test_rotations_have_the_same_angles_both_ways():
    def angles(result):
        middle = result[:, 0, SIZE // 4 : 3 * SIZE // 4, SIZE // 4 : 3 * SIZE // 4]
        along, across = middle.diff(dim=2).mean(dim=(1, 2)), middle.diff(dim=1).mean(dim=(1, 2))
        return torch.rad2deg(torch.atan2(across, along))

    first, second = (angles(r) for r in both(coordinates(), rotate=40))
    assert 35 < first.max() < 41.5 and -41.5 < first.min() < -35
    assert_same_distribution(first, second)


def test_a_rotated_image_is_mirrored_at_its_border():
    for result in both(torch.full((8, SIZE, SIZE, 1), 200, dtype=torch.uint8), rotate=90):
        assert (result * 255 - 200).abs().max() < 1.01


def test_the_two_engines_turn_the_same_way():
    import albumentations as A

    from data.images.augment.batched import warp

    images = coordinates(1)
    turned = A.Rotate(limit=(30, 30), p=1, border_mode=2)(image=images[0].numpy())["image"]
    angle = torch.deg2rad(torch.tensor(30.0))
    theta = torch.tensor([[[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]])
    difference = warp(to_float(images), theta, images.shape[1]) - to_float(
        torch.from_numpy(turned)[None]
    )
    assert difference[..., 16:48, 16:48].abs().max() < 0.03


@pytest.mark.parametrize(
    ("knob", "measure"),
    [
        ("brightness", lambda v: v.mean(dim=(1, 2, 3))),
        ("contrast", lambda v: v.std(dim=(1, 2, 3))),
        ("saturation", lambda v: (v.amax(dim=1) - v.amin(dim=1)).mean(dim=(1, 2))),
    ],
)
def test_jitter_has_the_same_strengths(knob, measure):
    image = photographs(1).expand(COUNT, -1, -1, -1).contiguous()
    first, second = (measure(r) for r in both(image, **{knob: 0.4}))
    assert first.std() > 0.1 * first.mean()
    assert_same_distribution(first, second)


def test_hue_turns_by_the_same_angles():
    image = torch.zeros(COUNT, SIZE, SIZE, 3, dtype=torch.uint8)
    image[..., 0], image[..., 1] = 200, 60

    def hue(result):
        red, green, blue = result.mean(dim=(2, 3)).unbind(1)
        return torch.atan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)

    first, second = (hue(r) for r in both(image, hue=0.2))
    assert first.std() > 0.5
    # Albumentations knows 180 hues of 8 bits; a step of it is far below the sampling noise.
    assert_same_distribution(first + 0.017 * torch.rand(COUNT), second + 0.017 * torch.rand(COUNT))


def test_hue_agrees_with_the_colour_model_of_the_standard_library():
    import colorsys

    ties = [(0, 0, 0), (0.5, 0.5, 0.5), (0.7, 0.7, 0.1), (0.1, 0.7, 0.7), (0.7, 0.1, 0.7)]
    colours = torch.cat([torch.rand(50, 3), torch.tensor(ties)])[..., None, None]
    shift = torch.rand(len(colours)) - 0.5
    turned = shift_hue(colours, shift)[..., 0, 0]
    for colour, by, result in zip(colours[..., 0, 0].tolist(), shift.tolist(), turned, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        expected = colorsys.hsv_to_rgb((hue + by) % 1, saturation, value)
        assert torch.allclose(result, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "changed"),
    [
        ({"brightness": 0.9, "jitter_p": 0.3}, lambda v, o: (v - o).abs().amax(dim=(1, 2, 3)) > 0),
        ({"grayscale": 0.3}, lambda v, o: (v[:, 0] - v[:, 2]).abs().amax(dim=(1, 2)) < 1e-6),
        ({"blur": 0.3, "blur_sigma": (1, 2)}, lambda v, o: (v - o).abs().amax(dim=(1, 2, 3)) > 0),
        ({"solarize": 0.3}, lambda v, o: v.amax(dim=(1, 2, 3)) < 0.51),
        ({"erase": 0.3}, lambda v, o: (v - o).abs().amax(dim=(1, 2, 3)) > 0),
    ],
    ids=["jitter_p", "grayscale", "blur", "solarize", "erase"],
)
def test_a_probability_is_the_share_of_views_changed(knobs, changed):
    images = photographs().clamp(min=10)
    images[:, 0, 0] = torch.tensor([250, 200, 20], dtype=torch.uint8)
    assert_same_rate(*(changed(r, to_float(images)) for r in both(images, **knobs)), 0.3)


def test_grey_views_have_the_same_values():
    images = photographs(8)
    first, second = both(images, grayscale=1.0)
    assert (first - second).abs().max() < 1.5 / 255


def test_solarized_views_have_the_same_values():
    images = photographs(8)
    first, second = both(images, solarize=1.0)
    assert (first - second).abs().max() < 1.5 / 255


def test_blur_of_a_fixed_sigma_gives_the_same_values():
    images = photographs(8)
    first, second = both(images, blur=1.0, blur_sigma=(1.5, 1.5))
    assert (first - second).abs().max() < 3 / 255


def test_blur_leaves_the_same_spectra():
    def energy(result):
        spectrum = torch.fft.rfft2(result.mean(dim=1)).abs().square()
        return (spectrum[:, 8:24, 8:24].sum(dim=(1, 2)) + 1e-3).log()

    noise = torch.randint(0, 256, (1, SIZE, SIZE, 3), generator=torch.manual_seed(0))
    images = noise.to(torch.uint8).expand(COUNT, -1, -1, -1).contiguous()
    first, second = (energy(r) for r in both(images, blur=1.0, blur_sigma=(0.5, 1.5)))
    assert_same_distribution(first, second)


def test_each_image_is_blurred_by_its_own_sigma():
    images, sigma = to_float(photographs(3)), torch.tensor([0.3, 1.0, 2.0])
    together = blur(images, sigma)
    for number in range(3):
        alone = blur(images[number : number + 1], sigma[number : number + 1])
        assert torch.allclose(together[number], alone[0], atol=1e-6)


def test_noise_has_the_given_deviation():
    grey = torch.full((40, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    for result in both(grey, noise=0.07):
        # Albumentations truncates the noise to whole 8-bit steps, which takes up to half a step.
        assert abs(result.std() - 0.07) < 0.5 / 255 and abs(result.mean() - 128 / 255) < 0.002


def test_erased_rectangles_have_the_same_area_shape_and_place():
    def rectangles(result):
        gone = (result < 1).any(dim=1)
        width, height = gone.any(dim=1).sum(dim=1), gone.any(dim=2).sum(dim=1)
        assert torch.equal(width * height, gone.sum(dim=(1, 2)))
        left = gone.any(dim=1).to(torch.uint8).argmax(dim=1)
        return width * height, width / height, left / (SIZE - width)

    white = torch.full((COUNT, SIZE, SIZE, 3), 255, dtype=torch.uint8)
    first, second = (rectangles(r) for r in both(white, erase=1.0, erase_scale=(0.05, 0.25)))
    for one, other in zip(first, second, strict=True):
        assert_same_distribution(one, other)


def test_an_erased_rectangle_has_one_random_colour():
    black = torch.zeros(COUNT, SIZE, SIZE, 3, dtype=torch.uint8)
    per_engine = []
    for result in both(black, erase=1.0, erase_scale=(0.1, 0.1)):
        colours = result.amax(dim=(2, 3))
        painted = result.flatten(2)
        assert ((painted == 0) | ((painted - colours[..., None]).abs() < 1e-6)).all()
        assert abs(torch.corrcoef(colours.T)[0, 1]) < 0.1
        per_engine.append(colours.flatten())
    # Albumentations draws whole 8-bit steps.
    assert_same_distribution(*[(colours * 255).round() for colours in per_engine])


def test_a_knob_out_of_step_is_noticed():
    """The tests above can fail: an engine with another brightness does not pass as the same."""
    image = photographs(1).expand(COUNT, -1, -1, -1).contiguous()
    wrong = BatchedAugmenter(AugmentationParams(brightness=0.5), SIZE, 3)(image, 1)
    right = views("albumentations", image, brightness=0.4)
    with pytest.raises(AssertionError):
        assert_same_distribution(wrong.mean(dim=(1, 2, 3)), right.mean(dim=(1, 2, 3)))


def test_an_unordered_range_is_refused():
    with pytest.raises(ValueError, match="write the lower first"):
        AugmentationParams(crop_scale=(0.9, 0.2))


def test_an_unknown_knob_is_refused():
    with pytest.raises(ValueError, match="Extra inputs"):
        AugmentationParams(blurr=0.5)


@pytest.mark.parametrize("crop", [{}, {"crop_scale": (0.4, 0.9)}])
def test_small_views_show_the_same_in_both_engines(crop):
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.integers(0, 256, (64, 7, 7, 1), dtype=np.uint8))
    images = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    means = {}
    for engine in ("batched", "albumentations"):
        params = AugmentationParams(engine=engine, view_size=20, **crop)
        views = build_augmenter(params, 28, 1)(images, 0)
        assert views.shape == (64, 1, 20, 20)
        means[engine] = views.mean(dim=(1, 2, 3))
    if not crop:  # nothing random: image by image the same picture
        assert torch.allclose(means["batched"], means["albumentations"], atol=0.02)

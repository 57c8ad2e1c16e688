"""Image networks against plain loops, numpy and the published numbers of parameters."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from networks.test_networks import initialise

from jdmm import MDMM, InputError, Modality
from jdmm.likelihoods import Bernoulli, Categorical, Normal, constrain_sd
from jdmm.models.base import unobserved_series
from jdmm.networks import BATCH_STATS, BatchNorm, Image, ImageDecoder, ImageEncoder
from jdmm.networks.backgrounds import Recall, frames_of
from jdmm.networks.convolutions import FRAMES, DoublingConv, HalvingConv, convolve, patches

pytestmark = pytest.mark.usefixtures("x64")

SMALL = Image((8, 8, 2), (3, 4))
GROUPS = Image((8, 8, 2), (3, 4), "group")
RNG = np.random.default_rng(0)


def test_halving_convolution_is_the_sum_over_its_windows():
    images = RNG.normal(size=(2, 4, 6, 3))
    layer = HalvingConv(5)
    variables = initialise(layer, images)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 2, 3, 5))
    for y, x in np.ndindex(2, 3):
        window = padded[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        expected[:, y, x] = np.einsum("nabc,abco->no", window, kernel) + bias
    np.testing.assert_allclose(layer.apply(variables, images), expected, atol=1e-12)


def test_convolutions_of_many_images_are_those_of_each():
    """Taken in parts, of which the last is smaller."""
    images = RNG.normal(size=(2 * FRAMES + 3, 4, 4, 2))
    kernel = RNG.normal(size=(9 * 2, 3))
    found, pull = jax.vjp(lambda *inputs: convolve(*inputs, 3, 2), images, kernel)
    each = [patches(image[None], 3, 2) @ kernel for image in images]
    np.testing.assert_allclose(found, np.concatenate(each), atol=1e-12)
    ones = pull(jnp.ones_like(found))
    expected = jnp.sum(patches(images, 3, 2), (0, 1, 2))
    np.testing.assert_allclose(ones[1], np.repeat(expected[:, None], 3, 1), atol=1e-9)


def test_doubling_convolution_spreads_every_pixel():
    """A transposed convolution adds the kernel, times the pixel, around twice its place."""
    images = RNG.normal(size=(2, 3, 4, 3))
    layer = DoublingConv(5)
    variables = initialise(layer, images)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    spread = np.zeros((2, 8, 10, 5))
    for y, x in np.ndindex(3, 4):
        added = np.einsum("nc,abco->nabo", images[:, y, x], kernel)
        spread[:, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += added
    expected = spread[:, 1:-1, 1:-1] + bias
    np.testing.assert_allclose(layer.apply(variables, images), expected, atol=1e-12)


def recalled(features, values, observed, own: bool, preference=30.0):
    """The module for images (2, 2, 1), with a key that is the features, spread widely."""
    layer, frames = Recall((2, 2, 1)), frames_of(values, observed, own)
    variables = initialise(layer, features, frames)
    kernel = np.zeros_like(variables["params"]["key"]["kernel"])
    kernel[:, : len(kernel)] = 10 * np.eye(len(kernel))
    key = {"kernel": kernel, "bias": kernel[0]}
    return layer.apply({"params": {"key": key, "own": np.array(preference)}}, features, frames)


def test_a_step_recalls_the_tiles_of_the_nearest_features():
    """Two samples of two series, two tiles of an upper and a lower row of two pixels.

    The features of steps 0 and 2, and of 1 and 3, are alike in the upper tile; in the lower one
    those of 0 and 1, and of 2 and 3.
    """
    upper = np.array([[0.0, 0.0], [3.0, 0.0], [0.1, 0.0], [3.1, 0.0]])
    pose = np.stack([upper, upper[[0, 2, 1, 3]]], 1)[:, :, None]  # (time, row, column, channel)
    features = np.broadcast_to(pose, (2, 2, *pose.shape))
    values = RNG.uniform(size=(2, 4, 4))
    observed = np.ones(values.shape, bool)
    observed[1, :2] = False
    values[1, :2] = np.nan
    found, doubt = recalled(features, values, observed, own=True)
    apart, _ = recalled(features, values, observed, own=False)
    # the last step of four may recall its own image; the second series has only the last two
    first = np.concatenate([values[0, [2, 3, 0, 3], :2], values[0, [1, 0, 3, 3], 2:]], 1)
    second = np.concatenate([values[1, [2, 3, 3, 3], :2], values[1, [2, 2, 3, 3], 2:]], 1)
    for expected, row in ((first, 0), (second, 1)):
        np.testing.assert_allclose(apart[0, row], expected, atol=1e-6)
        np.testing.assert_allclose(apart[1, row], expected, atol=1e-6)
    kept = np.concatenate([values[1, [2, 3, 2, 3], :2], values[1, [2, 2, 2, 3], 2:]], 1)
    np.testing.assert_allclose(found[0, 1], kept, atol=1e-6)
    # the key of the upper tile of step 0 is a distance of 1 away from that of step 2
    assert doubt.shape == (2, 2, 4, 2, 1)
    np.testing.assert_allclose(doubt[0, 1, 0, 0, 0], np.log(1.01), atol=1e-4)
    np.testing.assert_allclose(doubt[0, 1, 2:], np.log(0.01), atol=1e-2)


def test_an_own_image_is_preferred_to_one_of_the_same_key():
    features = np.zeros((1, 1, 4, 1, 1, 2))
    values, observed = np.eye(4)[None], np.ones((1, 4, 4), bool)
    found, _ = recalled(features, values, observed, own=True, preference=2.0)
    own = np.exp(2.0) / (np.exp(2.0) + 3)
    np.testing.assert_allclose(np.diagonal(found[0, 0]), own, rtol=1e-6)


def test_recall_without_images_is_grey_and_has_finite_gradients():
    features, values = RNG.normal(size=(1, 2, 3, 1, 1, 2)), np.full((2, 3, 4), np.nan)
    observed = np.zeros(values.shape, bool)
    observed[1, 0] = True
    values[1, 0] = 0.25

    def total(features):
        pixels, doubt = recalled(features, values, observed, own=False)
        return jnp.sum(pixels) + jnp.sum(doubt)

    grey, _ = recalled(features, values, observed, own=False)
    np.testing.assert_allclose(grey[0, 0], 0.5)
    np.testing.assert_allclose(grey[0, 1], np.array([0.5, 0.25, 0.25])[:, None] * np.ones(4))
    assert np.isfinite(jax.grad(total)(features)).all()


def test_batch_normalisation_takes_only_the_rows_that_count():
    values, counted = RNG.normal(2, 3, (6, 2, 2, 3)), np.array([1, 0, 1, 1, 0, 1], bool)
    module = BatchNorm()
    variables = initialise(module, values, counted)
    found, updated = module.apply(variables, values, counted, mutable=[BATCH_STATS])
    mean = values[counted].mean((0, 1, 2))
    variance = values[counted].var((0, 1, 2))
    scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
    expected = (values - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for name, own in (("mean", mean), ("variance", variance)):
        moved = 0.9 * variables[BATCH_STATS][name] + 0.1 * own
        np.testing.assert_allclose(updated[BATCH_STATS][name], moved, atol=1e-12)

    # prediction uses the running statistics, row by row
    positive = {**variables, BATCH_STATS: jax.tree.map(jnp.abs, variables[BATCH_STATS])}
    running = jax.device_get(positive[BATCH_STATS])
    expected = (values - running["mean"]) / np.sqrt(running["variance"] + 1e-5) * scale + bias
    np.testing.assert_allclose(module.apply(positive, values, counted), expected, atol=1e-12)


def test_batch_normalisation_of_nothing_is_finite_and_keeps_the_statistics():
    values, counted = jnp.ones((3, 2)), jnp.zeros(3, bool)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), values, counted)

    def total(params, values):
        own = {**variables, "params": params}
        found, updated = module.apply(own, values, counted, mutable=[BATCH_STATS])
        return jnp.sum(found**2), updated

    gradient, updated = jax.grad(total, (0, 1), has_aux=True)(variables["params"], values)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: bool((a == b).all()), updated[BATCH_STATS], variables[BATCH_STATS]
        )
    )


def test_missing_frames_do_not_touch_the_others():
    """Whatever stands under the mask, the evidence of observed frames and the statistics stay."""
    encoder = ImageEncoder(3, SMALL)
    values = RNG.uniform(size=(2, 5, SMALL.pixels))
    observed = np.broadcast_to((RNG.uniform(size=(2, 5)) < 0.6)[..., None], values.shape)
    variables = initialise(encoder, values, observed)
    other = np.where(observed, values, RNG.uniform(size=values.shape))
    first, second = (
        encoder.apply(variables, each, observed, mutable=[BATCH_STATS]) for each in (values, other)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    # as if there were no other frames
    frames = observed[..., 0]
    alone = encoder.apply(variables, values[frames], observed[frames], mutable=[BATCH_STATS])
    np.testing.assert_allclose(first[0].mean[frames], alone[0].mean, atol=1e-10)
    for a, b in zip(jax.tree.leaves(first[1]), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_group_normalisation_ignores_the_batch():
    encoder, decoder = ImageEncoder(3, GROUPS), ImageDecoder(GROUPS, Bernoulli())
    values, z = RNG.uniform(size=(4, GROUPS.pixels)), RNG.normal(size=(4, 3))
    observed = np.ones(values.shape, bool)
    for module, inputs in ((encoder, (values, observed)), (decoder, (z,))):
        variables = initialise(module, *inputs)
        assert list(variables) == ["params"]
        every = jax.tree.leaves(module.apply(variables, *inputs))
        one = jax.tree.leaves(module.apply(variables, *(leaf[:1] for leaf in inputs)))
        for a, b in zip(every, one, strict=True):
            np.testing.assert_allclose(a[:1], b, atol=1e-12)


def test_normal_pixels_lie_within_the_range_and_share_one_sd():
    decoder = ImageDecoder(GROUPS, Normal())
    z = RNG.normal(size=(2, 3, 5))
    fresh = decoder.init(jax.random.key(0), z)
    mean, raw_sd = decoder.apply(fresh, 30 * z)
    assert mean.shape == raw_sd.shape == (2, 3, GROUPS.pixels)
    assert mean.min() >= 0 and mean.max() <= 1
    np.testing.assert_allclose(constrain_sd(raw_sd), 0.1, rtol=1e-6)


def test_normal_pixels_of_a_fixed_sd_have_a_mean_alone():
    z = RNG.normal(size=(2, 3, 5))
    fresh = ImageDecoder(GROUPS, Normal()).init(jax.random.key(0), z)
    params = {name: own for name, own in fresh["params"].items() if name != "sd"}
    (mean,) = ImageDecoder(GROUPS, Normal(sd=0.1)).apply({"params": params}, z)
    np.testing.assert_array_equal(mean, ImageDecoder(GROUPS, Normal()).apply(fresh, z)[0])


VIDEO = Modality("video", likelihood=Bernoulli(), image=Image())
SILHOUETTE = Modality("silhouette", likelihood=Bernoulli(), image=Image((64, 64, 1)))
PERSON, ACTION = (Modality(name, likelihood=Categorical(10)) for name in ("person", "action"))


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        ((VIDEO, PERSON, ACTION), 4_542_503),
        ((VIDEO, SILHOUETTE, ACTION), 7_489_294),
        ((VIDEO, SILHOUETTE, PERSON, ACTION), 7_757_592),
    ],
)
def test_published_numbers_of_parameters(modalities, expected):
    """Tan et al. 2020, table S2 and their code."""
    model = MDMM(modalities, latent=256, hidden=256)
    series = unobserved_series(modalities, 1, 1)
    shapes = jax.eval_shape(lambda key: model.init(key, series), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image((64, 64)), r"shape as \(height, width, channel\), got \(64, 64\)"),
        (lambda: Image((60, 64, 3)), "multiples of 8 for 3 convolutions, got"),
        (lambda: Image(channels=()), "channels as whole numbers"),
        (lambda: Image(normalisation="layer"), "among 'batch', 'group', got 'layer'"),
        (lambda: Modality("v", 5, image=SMALL), r"features=128, the pixels of \(8, 8, 2\), got 5"),
        (lambda: Modality("v", likelihood=Categorical(3), image=SMALL), "Bernoulli or Normal"),
    ],
)
def test_impossible_images_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

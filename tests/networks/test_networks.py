"""Networks against numpy computations from their parameters, by the formulas of the paper."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm.likelihoods import (
    Bernoulli,
    Categorical,
    Mixed,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)
from jdmm.models.mdmm import MDMM, Modality
from jdmm.networks import (
    GatedTransition,
    HomoscedasticDecoder,
    LabelEncoder,
    MLPDecoder,
    MLPEncoder,
    ProductTransition,
    passthrough_initializers,
)
from jdmm.series import series_from_arrays

pytestmark = pytest.mark.usefixtures("x64")

LATENT, HIDDEN = 3, 4


def initialise(module, *inputs):
    """Random double precision parameters, biases too: an initial 0 would hide a missing term."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.array(rng.normal(0, 0.7, leaf.shape)), shapes)


def affine(params, x: np.ndarray) -> np.ndarray:
    return x @ np.array(params["kernel"]) + np.array(params["bias"])


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def gated_transition(params, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of states ``(state, latent)``, as in section 1 of the design."""
    of_gate, of_nonlinear = np.split(relu(affine(params["hidden_layers"], z)), 2, axis=-1)
    gate = 1 / (1 + np.exp(-affine(params["gate"], of_gate)))
    linear = affine(params["linear"], z)
    nonlinear = affine(params["nonlinear"], of_nonlinear)
    mean = (1 - gate) * linear + gate * nonlinear
    return mean, softplus(affine(params["sd"], nonlinear)) + 1e-3


def mlp(params, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of an MLP encoder."""
    inner = relu(affine(params["hidden_layer"], values))
    return affine(params["mean"], inner), softplus(affine(params["sd"], inner)) + 1e-3


def close(found, mean, sd) -> None:
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.variance, sd**2, rtol=1e-10)


def test_gated_transition():
    """One state, states along a further axis, and the same mapped over several."""
    module = GatedTransition(LATENT, HIDDEN)
    variables = initialise(module, jnp.zeros(LATENT))
    z = np.random.default_rng(2).normal(0, 2, (7, 2, LATENT))
    mean, sd = gated_transition(variables["params"], z)

    @jax.jit
    def transition(states):
        return module.apply(variables, states)

    close(transition(jnp.array(z[3, 1])), mean[3, 1], sd[3, 1])
    close(transition(jnp.array(z[:, 1].T)), mean[:, 1].T, sd[:, 1].T)
    mapped = transition(jnp.moveaxis(jnp.array(z), -1, 0))
    close(mapped, np.moveaxis(mean, -1, 0), np.moveaxis(sd, -1, 0))


def test_gated_transition_starts_near_the_state():
    """With `identity`, by the same formula."""
    module = GatedTransition(LATENT, HIDDEN, identity=True)
    variables = module.init(jax.random.key(0), jnp.zeros(LATENT))
    z = np.random.default_rng(2).normal(0, 2, (200, LATENT))
    mean, sd = gated_transition(variables["params"], z)
    close(module.apply(variables, jnp.array(z.T)), mean.T, sd.T)
    kept = np.mean(mean * z) / np.mean(z * z)
    assert 0.75 < kept < 1.0, kept


def test_layers_that_start_by_handing_on():
    """A share of the first inputs, beside what does not depend on them."""
    count, rng = 3, np.random.default_rng(3)
    into, out = passthrough_initializers(count)
    first = np.array(into(jax.random.key(0), (5, 9)))
    z = rng.normal(size=(20, 5))
    beside = np.where(np.arange(5) < count, 0.0, z)
    for share in (0.7, 0.0):
        last = np.array(out(share)(jax.random.key(1), (9, 4)))
        handed = relu(z @ first) @ last - relu(beside @ first) @ last
        np.testing.assert_allclose(handed[:, :count], share * z[:, :count], atol=1e-12)
        np.testing.assert_allclose(handed[:, count:], 0, atol=1e-12)
        assert np.ptp(relu(beside @ first) @ last) > 0.5


def test_mlp_encoder_of_one_feature():
    module = MLPEncoder(LATENT, HIDDEN)
    values = np.random.default_rng(3).normal(size=(2, 5, 1))
    observed = jnp.ones(values.shape, bool)
    variables = initialise(module, jnp.array(values), observed)
    close(module.apply(variables, jnp.array(values), observed), *mlp(variables["params"], values))


def test_mlp_encoder_of_several_features_sees_the_mask():
    """The network's input is the values and, behind them, the mask."""
    module = MLPEncoder(LATENT, HIDDEN)
    rng = np.random.default_rng(4)
    observed = rng.uniform(size=(2, 5, 3)) < 0.5
    values = np.where(observed, rng.normal(size=observed.shape), 0)
    variables = initialise(module, jnp.array(values), jnp.array(observed))
    expected = mlp(variables["params"], np.concatenate([values, observed], -1))
    close(module.apply(variables, jnp.array(values), jnp.array(observed)), *expected)


def test_label_encoder():
    """relu(embedding), then the MLP of section 1: the mask of a label is no input."""
    module = LabelEncoder(6, LATENT, HIDDEN)
    labels = np.random.default_rng(5).integers(0, 6, (2, 5, 1))
    values, observed = jnp.array(labels, float), jnp.ones(labels.shape, bool)
    variables = initialise(module, values, observed)
    params = variables["params"]
    embedded = relu(np.array(params["embedding"]["embedding"])[labels[..., 0]])
    close(module.apply(variables, values, observed), *mlp(params["mlp"], embedded))


@pytest.mark.parametrize("likelihood", [Normal(), Bernoulli(), Categorical(6)])
def test_mlp_decoder(likelihood):
    """Each raw output is an affine map of one shared hidden layer."""
    module = MLPDecoder(2, likelihood, HIDDEN)
    z = np.random.default_rng(6).normal(size=(2, 5, LATENT))
    variables = initialise(module, jnp.array(z))
    params, found = variables["params"], module.apply(variables, jnp.array(z))
    inner = relu(affine(params["hidden_layer"], z))
    shape = (2, 6) if likelihood.classes else (2,)
    assert len(found) == likelihood.outputs
    for i, raw in enumerate(found):
        layer = params[f"output_{i}"]
        expected = np.tensordot(inner, np.array(layer["kernel"]), 1) + np.array(layer["bias"])
        assert raw.shape == (2, 5, *shape)
        np.testing.assert_allclose(raw, expected, rtol=1e-10)
    value = jnp.zeros((2, 5, 2))
    assert likelihood.log_prob(found, value).shape == likelihood.mean(found).shape == value.shape


def count_parameters(model: MDMM) -> int:
    values = {m.name: np.zeros((1, 1, m.features)) for m in model.modalities}
    shapes = jax.eval_shape(model.init, jax.random.key(0), series_from_arrays(values))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameter_count_of_the_published_spirals_model():
    assert count_parameters(MDMM((Modality("x"), Modality("y")))) == 1854


def test_parameter_count_of_the_published_label_networks():
    """Ten persons cost 268298 = 7757592 - 7489294, the published models with and without them."""
    action = Modality("action", likelihood=Categorical(10))
    person = Modality("person", likelihood=Categorical(10))
    without, with_ = (
        count_parameters(MDMM(modalities, latent=256, hidden=256))
        for modalities in ((action,), (action, person))
    )
    assert with_ - without == 7_757_592 - 7_489_294


PAIR = MDMM((Modality("pair", 2), Modality("label", likelihood=Categorical(4))), 3, 16)


@jax.jit
def encode_pair(variables, series):
    return PAIR.state_space(variables).encode(series)


def encode(pair, label=0.0):
    """Evidence of one step: modality -> natural parameters, each ``(latent,)``."""
    series = series_from_arrays({"pair": np.array([[pair]]), "label": np.array([[[label]]])})
    evidence = encode_pair(initialise(PAIR, series), series)
    return {name: np.stack([leaf[0, 0] for leaf in e]) for name, e in evidence.items()}


def test_one_missing_feature_of_two_keeps_the_evidence():
    """The other feature still counts, and a gap is not the value 0."""
    partial = encode([1.5, np.nan])["pair"]
    assert (partial[0] > 0).all() and np.isfinite(partial).all()
    assert np.abs(partial - encode([-0.5, np.nan])["pair"]).max() > 1e-3
    assert np.abs(partial - encode([1.5, 0.0])["pair"]).max() > 1e-3
    assert np.abs(partial - encode([np.nan, 1.5])["pair"]).max() > 1e-3


def test_a_missing_modality_gives_exactly_no_evidence_and_leaves_the_other():
    complete = encode([1.5, 0.5], 2.0)
    pair, label = encode([np.nan, np.nan], 2.0), encode([1.5, 0.5], np.nan)
    np.testing.assert_array_equal(pair["pair"], 0)
    np.testing.assert_array_equal(label["label"], 0)
    np.testing.assert_array_equal(pair["label"], complete["label"])
    np.testing.assert_array_equal(label["pair"], complete["pair"])
    assert (complete["pair"][0] > 0).all() and (complete["label"][0] > 0).all()


def test_evidence_is_the_encoder_in_natural_parameters():
    """Precision 1 / sd^2 and mean / sd^2 of the numpy encoder; padding has none."""
    model = MDMM((Modality("x"),), LATENT, HIDDEN)
    values = np.random.default_rng(8).normal(size=(2, 4, 1)).astype(np.float32)
    series = series_from_arrays({"x": values}, lengths=np.array([4, 2]))
    variables = initialise(model, series)
    mean, sd = mlp(variables["params"]["encoders_x"], values)
    found = model.state_space(variables).encode(series)["x"]
    inside = (np.arange(4) < np.array([[4], [2]]))[..., None]
    np.testing.assert_allclose(found.precision, np.where(inside, sd**-2, 0), rtol=1e-6)
    np.testing.assert_allclose(found.weighted_mean, np.where(inside, mean / sd**2, 0), rtol=1e-6)


def test_gradients_of_missing_evidence_are_zero():
    """Nothing observed: the encoders get finite gradients, all 0."""
    series = series_from_arrays({"pair": np.full((1, 2, 2), np.nan), "label": [[np.nan] * 2]})

    @jax.jit
    @jax.grad
    def gradient_of_total(variables):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(encode_pair(variables, series)))

    gradient = gradient_of_total(initialise(PAIR, series))
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)


def test_prior():
    """N(mean, (exp(s) + 0.001)^2)."""
    model = MDMM((Modality("x"),), LATENT, HIDDEN)
    series = series_from_arrays({"x": np.zeros((1, 1))})
    variables = initialise(model, series)
    params, prior = variables["params"], model.state_space(variables).prior
    close(prior, params["prior_mean"], np.exp(params["prior_log_sd"]) + 1e-3)


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_parts_bind_each_network_to_its_own_parameters(name):
    """The two transitions and the decoders, against numpy."""
    model = MDMM((Modality("x"), Modality("y")), LATENT, HIDDEN)
    series = series_from_arrays({"x": np.zeros((1, 1)), "y": np.zeros((1, 1))})
    variables = initialise(model, series)
    ssm, params = model.state_space(variables), variables["params"]
    z = np.random.default_rng(13).normal(size=LATENT)
    expected = gated_transition(params[f"{name}_transition"], z)
    close(getattr(ssm, name)(jnp.array(z)), *expected)
    for modality in "xy":
        decoder = params[f"decoders_{modality}"]
        mean = affine(decoder["output_0"], relu(affine(decoder["hidden_layer"], z)))
        np.testing.assert_allclose(ssm.decode(jnp.array(z))[modality][0], mean, rtol=1e-10)


def test_product_transition():
    """A linear map plus products, by numpy; a constant sd."""
    module = ProductTransition(LATENT, HIDDEN)
    z = np.random.default_rng(0).normal(size=(LATENT, 5))
    variables = initialise(module, z)
    params = variables["params"]
    gate, value = (affine(params[name], z.T) for name in ("gate", "value"))
    mean = affine(params["linear"], z.T) + affine(params["change"], np.tanh(gate) * value)
    found = module.apply(variables, jnp.array(z))
    np.testing.assert_allclose(found.mean, mean.T, rtol=1e-12)
    sd = softplus(np.array(params["sd"])) + 1e-3
    np.testing.assert_allclose(found.variance, np.tile(sd[:, None] ** 2, 5), rtol=1e-12)


def test_product_transition_starts_near_the_identity():
    z = np.random.default_rng(0).normal(size=(LATENT, 5)).astype(np.float32)
    module = ProductTransition(LATENT, HIDDEN, sd=0.2)
    found = module.apply(module.init(jax.random.key(0), z), z)
    np.testing.assert_allclose(found.mean, z, atol=0.05)
    np.testing.assert_allclose(np.sqrt(found.variance), 0.2, rtol=1e-4)


@pytest.mark.parametrize("hidden", [0, HIDDEN])
@pytest.mark.parametrize(
    "likelihood",
    [Normal(), Normal(sd=0.1), StudentT(), NegativeBinomial(), Poisson(), Categorical(3)],
    ids=str,
)
def test_homoscedastic_decoder(hidden, likelihood):
    """What gives the width is a parameter, and does not depend on z."""
    module = HomoscedasticDecoder(2, likelihood, hidden)
    z = np.random.default_rng(0).normal(size=(4, LATENT))
    variables = initialise(module, z)
    params, raw = variables["params"], module.apply(variables, jnp.array(z))
    inner = relu(affine(params["hidden_layer"], z)) if hidden else z
    expected = affine(params["output_0"], inner).reshape(raw[0].shape)
    np.testing.assert_allclose(raw[0], expected, rtol=1e-12)
    assert len(raw) == likelihood.outputs
    assert raw[0].shape == ((4, 2, 3) if likelihood.classes else (4, 2))
    for leaf, name in zip(raw[1:], ("sd", "spread_2"), strict=False):
        np.testing.assert_allclose(leaf, np.tile(params[name], (4, 1)))


def test_a_homoscedastic_decoder_of_mixed_features():
    module = HomoscedasticDecoder(2, Mixed((StudentT(), Poisson())), 0)
    z = np.random.default_rng(0).normal(size=(4, LATENT))
    assert set(initialise(module, z)["params"]) == {"output_0", "sd", "spread_2"}


def test_the_encoder_of_counts_takes_their_logs():
    values, observed = np.array([[3.0, 50.0], [0.0, 7.0]]), np.ones((2, 2), bool)
    module = MLPEncoder(LATENT, HIDDEN, Mixed((Normal(), Poisson())))
    variables = initialise(module, values, observed)
    logs = np.array([[3.0, np.log(51)], [0.0, np.log(8)]])
    expected = MLPEncoder(LATENT, HIDDEN).apply(variables, logs, observed)
    found = module.apply(variables, jnp.array(values), observed)
    for first, second in zip(found, expected, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9)

"""A train step by the likelihood of a sigma-point filter, in eager PyTorch.

    python -m pip install '.[benchmarks]'
    python benchmarks/torch_filter_step.py

The method of `jdmm.models.sigma_point.SigmaPointSSM`, which `train_step.py` compares with this, as
a PyTorch user would write it: a Python loop over time, and covariances instead of the square roots
of jdmm. A time step has two Cholesky factors of the state's covariance and one of the features',
which costs less than the QR decompositions of a square-root filter, but is less accurate in single
precision. Prints a line of JSON.
"""

import math

# this import says what to install where there is no PyTorch
from torch_step import HIDDEN, SD_FLOOR, arguments, functional, nn, time_steps, torch

LATENT = 7
LOG_2PI = math.log(2 * math.pi)
JITTER = 1e-6
"""Added to variances of the state, so that rounding leaves its covariance positive definite."""


class ProductTransition(nn.Module):
    """z -> N(A z + b + C (tanh(U z + c) * (V z + d)), diag sd^2), the sd a constant."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        self.gate, self.value = nn.Linear(LATENT, HIDDEN), nn.Linear(LATENT, HIDDEN)
        self.change, self.linear = nn.Linear(HIDDEN, LATENT), nn.Linear(LATENT, LATENT)
        nn.init.eye_(self.linear.weight)
        nn.init.normal_(self.change.weight, std=0.002)
        self.raw_sd = nn.Parameter(torch.full((LATENT,), -2.3))

    def forward(self, z):
        """Mean ``(..., latent)`` given states ``(..., latent)``."""
        return self.linear(z) + self.change(torch.tanh(self.gate(z)) * self.value(z))


class Decoder(nn.Module):
    """z -> the normal distribution of a feature: a linear mean, and a constant sd."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        self.mean = nn.Linear(LATENT, 1)
        self.raw_sd = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        """Mean ``(..., 1)`` given states ``(..., latent)``."""
        return self.mean(z)


class SigmaPointModel(nn.Module):
    """The state space model of two 1-feature modalities, and its loss."""

    def __init__(self):
        """Makes the networks."""
        super().__init__()
        self.transition = ProductTransition()
        self.decoders = nn.ModuleList(Decoder() for _ in range(2))
        self.initial_mean = nn.Parameter(torch.zeros(LATENT))
        self.initial_log_sd = nn.Parameter(torch.zeros(LATENT))
        self.register_buffer("jitter", JITTER * torch.eye(LATENT), persistent=False)
        self.register_buffer("eye", torch.eye(len(self.decoders)), persistent=False)

    def update(self, mean, covariance, axes, noise, values, observed):
        """The state after the values of a step, and their log-likelihood ``(batch,)``."""
        points = place(mean, covariance, axes)
        expected, seen = moments(torch.cat([decoder(points) for decoder in self.decoders], -1))
        cross = (points - mean[:, None]).mT @ seen / points.shape[1]
        predicted = seen.mT @ seen / points.shape[1] + noise
        # a missing value has no covariance with the state, and a variance of 1 of its own
        innovation = torch.where(observed, values - expected, 0.0)
        cross = torch.where(observed[:, None], cross, 0.0)
        both = observed[:, None] & observed[:, :, None]
        root = torch.linalg.cholesky(torch.where(both, predicted, self.eye))
        gain = torch.cholesky_solve(cross.mT, root).mT
        error = torch.linalg.solve_triangular(root, innovation[..., None], upper=False)[..., 0]
        logs = root.diagonal(dim1=-2, dim2=-1).log() + 0.5 * LOG_2PI * observed
        mean = mean + (gain @ innovation[..., None])[..., 0]
        covariance = covariance - gain @ cross.mT + self.jitter
        return mean, covariance, -(0.5 * error**2 + logs).sum(-1)

    def predict(self, mean, covariance, axes, noise):
        """The next state: covariance of its mean at the points plus the noise."""
        mean, reached = moments(self.transition(place(mean, covariance, axes)))
        return mean, reached.mT @ reached / (2 * LATENT) + noise

    def forward(self, values):
        """The loss per time step, given values ``(modality, time, batch, 1)``, NaN if missing."""
        values = torch.cat(tuple(values), -1)
        observed, values = ~values.isnan(), values.nan_to_num()
        steps, batch, _ = values.shape
        axes, _ = torch.linalg.qr(torch.randn(steps, LATENT, LATENT, device=values.device))
        feature_noise = variances(torch.cat([decoder.raw_sd for decoder in self.decoders]))
        state_noise = variances(self.transition.raw_sd) + self.jitter
        mean = self.initial_mean.expand(batch, LATENT)
        covariance = torch.diag((self.initial_log_sd.exp() + SD_FLOOR) ** 2)
        covariance = covariance.expand(batch, LATENT, LATENT)
        log_likelihoods = []
        for t in range(steps):
            if t:
                mean, covariance = self.predict(mean, covariance, axes[t - 1], state_noise)
            mean, covariance, log_likelihood = self.update(
                mean, covariance, axes[t], feature_noise, values[t], observed[t]
            )
            log_likelihoods.append(log_likelihood)
        return -torch.stack(log_likelihoods).mean()


def variances(raw_sd):
    """A diagonal matrix of variances, from unconstrained numbers."""
    return torch.diag((functional.softplus(raw_sd) + SD_FLOOR) ** 2)


def place(mean, covariance, axes):
    """Points ``(batch, 2 latent, latent)`` along the columns of an orthogonal matrix."""
    offsets = math.sqrt(LATENT) * (torch.linalg.cholesky(covariance) @ axes).mT
    return mean[:, None] + torch.cat([offsets, -offsets], 1)


def moments(values):
    """The mean of a function at the points, and the deviations from it."""
    mean = values.mean(1)
    return mean, values - mean[:, None]


def main():
    """Times the train step by the likelihood of the filter."""
    description = "Times a train step by a sigma-point filter in eager PyTorch."
    time_steps(arguments(description, batch=25).parse_args(), SigmaPointModel)


if __name__ == "__main__":
    main()

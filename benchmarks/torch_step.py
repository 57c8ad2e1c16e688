"""The spirals train step in eager PyTorch: what `train_step.py` compares jdmm with.

    python -m pip install '.[benchmarks]'
    python benchmarks/torch_step.py

The model of Tan et al. 2020 as a PyTorch user would write it: a Python loop over time, and one run
of encoders, filters and decoders per view. The same loss as jdmm in `train_step.py`: for three
views (both modalities, each alone) a bound on a sampled backward chain and one on the smoothing
chain behind a backward filter of many particles, plus the prior matching. Prints a line of JSON.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError:
    print("expected PyTorch, found none: python -m pip install '.[benchmarks]'", file=sys.stderr)
    raise SystemExit(2) from None

LATENT, HIDDEN, SD_FLOOR = 5, 20, 1e-3
MATCH_PARTICLES, MATCH_WEIGHT = 50, 0.01
VIEWS = ((0, 1), (0,), (1,))


def perceptron(*last):
    """Two layers on the latent state, and what follows them."""
    return nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LATENT), *last)


class GatedTransition(nn.Module):
    """z -> mean and sd of the quotient p(z' | z) / p(z')."""

    def __init__(self):
        """Makes the layers."""
        super().__init__()
        self.gate, self.nonlinear = perceptron(nn.Sigmoid()), perceptron()
        self.linear, self.sd = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)

    def forward(self, z):
        """Moments ``(..., latent)`` given states ``(..., latent)``."""
        gate, nonlinear = self.gate(z), self.nonlinear(z)
        mean = (1 - gate) * self.linear(z) + gate * nonlinear
        return mean, functional.softplus(self.sd(nonlinear)) + SD_FLOOR


class GaussianMLP(nn.Module):
    """An encoder or a decoder: mean and sd from one hidden layer."""

    def __init__(self, inputs, outputs):
        """Makes the layers."""
        super().__init__()
        self.hidden = nn.Linear(inputs, HIDDEN)
        self.mean, self.sd = nn.Linear(HIDDEN, outputs), nn.Linear(HIDDEN, outputs)

    def forward(self, values):
        """Moments ``(..., outputs)`` given ``(..., inputs)``."""
        hidden = functional.relu(self.hidden(values))
        return self.mean(hidden), functional.softplus(self.sd(hidden)) + SD_FLOOR


class SpiralsModel(nn.Module):
    """The multimodal deep Markov model of two 1-feature modalities, and its loss."""

    def __init__(self, particles):
        """Makes the networks; `particles` are those of the smoother's backward filter."""
        super().__init__()
        self.particles = particles
        self.encoders = nn.ModuleList(GaussianMLP(1, LATENT) for _ in range(2))
        self.decoders = nn.ModuleList(GaussianMLP(LATENT, 1) for _ in range(2))
        self.forward_transition, self.backward_transition = GatedTransition(), GatedTransition()
        self.prior_mean = nn.Parameter(torch.zeros(LATENT))
        self.prior_log_sd = nn.Parameter(torch.zeros(LATENT))

    def prior(self):
        """Mean and precision of p(z)."""
        return self.prior_mean, (self.prior_log_sd.exp() + SD_FLOOR) ** -2

    def predict(self, transition, particles, prior):
        """Mean and variance of the mixture over particles of p(z') * q~(z' | z)."""
        prior_mean, prior_precision = prior
        mean, sd = transition(particles)
        precisions = prior_precision + sd**-2
        means = (prior_precision * prior_mean + mean * sd**-2) / precisions
        variances = 1 / precisions
        if len(particles) == 1:
            return means[0], variances[0]
        mean = means.mean(0)
        return mean, variances.mean(0) + ((means - mean) ** 2).mean(0)

    def run_chain(self, transition, precision, shift, particles, reverse):
        """Passes a message through time, multiplied by evidence ``(time, batch, latent)``.

        Returns means and variances of messages and of posteriors, and states of the posteriors.
        """
        prior_mean, prior_precision = prior = self.prior()
        steps, *shape = precision.shape
        mean, variance = prior_mean.expand(shape), (1 / prior_precision).expand(shape)
        states, results = None, []
        for t in reversed(range(steps)) if reverse else range(steps):
            if states is not None:
                mean, variance = self.predict(transition, states, prior)
            posterior_precision = 1 / variance + precision[t]
            posterior_mean = (mean / variance + shift[t]) / posterior_precision
            posterior_variance = 1 / posterior_precision
            noise = torch.randn(particles, *shape, device=mean.device)
            states = posterior_mean + posterior_variance.sqrt() * noise
            results.append((mean, variance, posterior_mean, posterior_variance, states.mean(0)))
        results = results[::-1] if reverse else results
        return [torch.stack(steps) for steps in zip(*results, strict=True)]

    def bound(self, values, view, beta, smooth):
        """The negative ELBO of one view, summed: on a sampled backward or smoothing chain."""
        experts = [self.encoders[m](values[m]) for m in view]
        precision = sum(sd**-2 for _, sd in experts)
        shift = sum(mean * sd**-2 for mean, sd in experts)
        transition, particles = self.backward_transition, self.particles if smooth else 1
        chain = self.run_chain(transition, precision, shift, particles, reverse=True)
        if smooth:
            prior_mean, prior_precision = self.prior()
            mean, variance, *_ = chain
            # each message holds p(z) already, which the smoothing chain multiplies in again
            precision = precision + 1 / variance - prior_precision
            shift = shift + mean / variance - prior_precision * prior_mean
            chain = self.run_chain(self.forward_transition, precision, shift, 1, reverse=False)
        p_mean, p_variance, q_mean, q_variance, states = chain
        ratio = (q_variance + (q_mean - p_mean) ** 2) / p_variance
        loss = beta * 0.5 * (p_variance.log() - q_variance.log() + ratio - 1).sum()
        for m in view:
            mean, sd = self.decoders[m](states)
            loss = loss + (0.5 * ((values[m] - mean) / sd) ** 2 + sd.log()).sum()
        return loss

    def matching(self, transition):
        """KL(p(z) || E p(z' | z)) over z ~ p(z)."""
        prior_mean, prior_precision = prior = self.prior()
        noise = torch.randn(MATCH_PARTICLES, 1, LATENT, device=prior_mean.device)
        particles = prior_mean + prior_precision**-0.5 * noise
        mean, variance = self.predict(transition, particles, prior)
        ratio = (1 / prior_precision + (prior_mean - mean) ** 2) / variance
        return 0.5 * (variance.log() + prior_precision.log() + ratio - 1).sum()

    def forward(self, values, beta=0.5):
        """The loss per time step, given values ``(modality, time, batch, 1)``."""
        bounds = [self.bound(values, view, beta, s) for s in (False, True) for view in VIEWS]
        matches = [self.matching(t) for t in (self.forward_transition, self.backward_transition)]
        count = values.shape[1] * values.shape[2]
        return 0.5 * sum(bounds) / count + MATCH_WEIGHT * beta * sum(matches)


def arguments(description, batch):
    """A parser of the options that each of these scripts has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, default=batch, help=f"series per train step [{batch}]")
    parser.add_argument("--steps", type=int, default=100, help="time steps per series [100]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument("--repeats", type=int, default=5, help="train steps timed [5]")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU [1]")
    return parser


def time_steps(options, make_model):
    """Times train steps of a model, whose output is its loss, and prints the median."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = make_model().to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    values = torch.randn(2, options.steps, options.batch, 1, device=options.device)
    times = []
    for _ in range(1 + options.repeats):  # the first warms up
        began = time.perf_counter()
        optimizer.zero_grad()
        model(values).backward()
        optimizer.step()
        if values.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"seconds": statistics.median(times[1:]), "parameters": parameters}
    print(json.dumps(result | {"torch": torch.__version__, **vars(options)}))


def main():
    """Times the spirals train step."""
    parser = arguments("Times the spirals train step in eager PyTorch.", batch=100)
    parser.add_argument("--particles", type=int, default=25, help="of the smoother [25]")
    options = parser.parse_args()
    time_steps(options, lambda: SpiralsModel(options.particles))


if __name__ == "__main__":
    main()

"""Flax modules: encoders, decoders, transitions, recurrent networks."""

from jdmm.networks.dense import StateDense, passthrough_initializers
from jdmm.networks.mlp import HomoscedasticDecoder, LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.networks.recurrent import GRU
from jdmm.networks.transitions import GatedTransition, ProductTransition

__all__ = [
    "GRU",
    "GatedTransition",
    "HomoscedasticDecoder",
    "LabelEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "ProductTransition",
    "StateDense",
    "passthrough_initializers",
]

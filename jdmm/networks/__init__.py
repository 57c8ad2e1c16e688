"""Flax modules: encoders, decoders, transitions, recurrent networks."""

from jdmm.networks.dense import StateDense, passthrough_initializers
from jdmm.networks.mlp import HomoscedasticDecoder, LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.networks.recurrent import GRU
from jdmm.networks.transitions import GatedTransition

__all__ = [
    "GRU",
    "GatedTransition",
    "HomoscedasticDecoder",
    "LabelEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "StateDense",
    "passthrough_initializers",
]

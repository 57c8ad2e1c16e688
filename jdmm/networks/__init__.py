"""Flax modules: encoders, decoders, transitions, recurrent networks."""

from jdmm.networks.dense import StateDense, handing_on
from jdmm.networks.mlp import LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.networks.recurrent import GRU
from jdmm.networks.transitions import GatedTransition

__all__ = [
    "GRU",
    "GatedTransition",
    "LabelEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "StateDense",
    "handing_on",
]

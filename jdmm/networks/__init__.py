"""Flax modules: encoders, decoders, transitions, recurrent networks."""

from jdmm.networks.dense import StateDense, passthrough_initializers
from jdmm.networks.images import Image, ImageDecoder, ImageEmbedding, ImageEncoder
from jdmm.networks.mlp import HomoscedasticDecoder, LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.networks.recurrent import GRU
from jdmm.networks.statistics import BATCH_STATS, BatchNorm
from jdmm.networks.transitions import GatedTransition, ProductTransition

__all__ = [
    "BATCH_STATS",
    "GRU",
    "BatchNorm",
    "GatedTransition",
    "HomoscedasticDecoder",
    "Image",
    "ImageDecoder",
    "ImageEmbedding",
    "ImageEncoder",
    "LabelEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "ProductTransition",
    "StateDense",
    "passthrough_initializers",
]

"""The models, by the name that a configuration gives in `model.name`."""

from jdmm.models.linear import Linear
from jdmm.models.mdmm import MDMM
from jdmm.models.mvae import MVAE
from jdmm.models.simple import Simple
from jdmm.models.structured import Structured
from jdmm.models.vrnn import VRNN

MODELS = {
    "mdmm": MDMM,
    "structured": Structured,
    "mvae": MVAE,
    "vrnn": VRNN,
    "linear": Linear,
    "simple": Simple,
}

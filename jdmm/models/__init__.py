"""The models, by the name that a configuration gives in `model.name`."""

from jdmm.models.mdmm import MDMM
from jdmm.models.mvae import MVAE
from jdmm.models.structured import Structured
from jdmm.models.vrnn import VRNN

MODELS = {"mdmm": MDMM, "structured": Structured, "mvae": MVAE, "vrnn": VRNN}

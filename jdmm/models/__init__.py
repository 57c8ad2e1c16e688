"""Models: one file per method over one protocol; `MODELS` by the name in `config.model.name`."""

from jdmm.models.base import Model
from jdmm.models.baselines import ImputationBaseline
from jdmm.models.linear_gaussian import LinearGaussianSSM
from jdmm.models.mdmm import MDMM
from jdmm.models.mvae import MVAE
from jdmm.models.nearest import NearestValue
from jdmm.models.sigma_point import SigmaPointSSM
from jdmm.models.structured_inference import StructuredInference
from jdmm.models.vrnn import VRNN

MODELS: dict[str, type[Model]] = {
    "mdmm": MDMM,
    "sigma_point": SigmaPointSSM,
    "structured_inference": StructuredInference,
    "mvae": MVAE,
    "vrnn": VRNN,
    "linear_gaussian": LinearGaussianSSM,
    "baseline": ImputationBaseline,
    "nearest": NearestValue,
}

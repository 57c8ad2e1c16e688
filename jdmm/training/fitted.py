"""A fitted model: the model, its variables, and how they came about."""

from dataclasses import dataclass

from jdmm.data.scaling import Standardise
from jdmm.evaluation.prediction import UNCALIBRATED, Calibration
from jdmm.models.base import Model, Variables


@dataclass(frozen=True)
class FittedModel:
    """A model with its fitted variables.

    Attributes:
        model: the model.
        variables: the best variables.
        history: one record per epoch: figures of training, and of validation where there was one.
        best_epoch: epoch of `variables`; None for a model that fits itself.
        best_score: their validation score; None without validation series.
        calibration: of the model's uncertainty.
        scaling: applied to all series before the model sees them; None for none.
    """

    model: Model
    variables: Variables
    history: tuple[dict[str, float], ...] = ()
    best_epoch: int | None = None
    best_score: float | None = None
    calibration: Calibration = UNCALIBRATED
    scaling: Standardise | None = None

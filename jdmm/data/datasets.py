"""The data sets by the name in `config.data.name`."""

from jdmm.data.arrays.dataset import Arrays
from jdmm.data.base import Dataset
from jdmm.data.spirals.dataset import Spirals
from jdmm.data.tables.dataset import Files
from jdmm.data.weizmann.dataset import Weizmann

DATASETS: dict[str, type[Dataset]] = {
    "spirals": Spirals,
    "weizmann": Weizmann,
    "files": Files,
    "arrays": Arrays,
}

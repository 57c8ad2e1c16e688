"""The data sets by the name in `config.data.name`."""

from jdmm.data.arrays.dataset import Arrays
from jdmm.data.base import Dataset
from jdmm.data.spirals import Spirals
from jdmm.data.tables.files import Files
from jdmm.data.weizmann import Weizmann

DATASETS: dict[str, type[Dataset]] = {
    "spirals": Spirals,
    "weizmann": Weizmann,
    "files": Files,
    "arrays": Arrays,
}

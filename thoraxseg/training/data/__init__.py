"""Data sets for training: files in one of three layouts in, checked and prepared cases with folds by animal out.

The layouts: nnU-Net's raw folder (versions 1 and 2, also the Medical Segmentation Decathlon), a table (CSV) that names
the files, and a study file, whose accepted cases are taken.
"""

from thoraxseg.training.data.animals import CASE_IS_ANIMAL
from thoraxseg.training.data.checks import Checked, check_data_set
from thoraxseg.training.data.content import Content, read_case
from thoraxseg.training.data.data_set import Case, DataSet
from thoraxseg.training.data.folds import (
    Fold,
    check_folds,
    given_folds,
    read_folds,
    split_by_animal,
    without_cases,
    write_folds,
)
from thoraxseg.training.data.label_table import LabelTable, parse_label_map
from thoraxseg.training.data.prepared import PreparedCase, prepare_case, prepare_cases
from thoraxseg.training.data.reading import read_data_set

__all__ = [
    "CASE_IS_ANIMAL",
    "Case",
    "Checked",
    "Content",
    "DataSet",
    "Fold",
    "LabelTable",
    "PreparedCase",
    "check_data_set",
    "check_folds",
    "given_folds",
    "parse_label_map",
    "prepare_case",
    "prepare_cases",
    "read_case",
    "read_data_set",
    "read_folds",
    "split_by_animal",
    "without_cases",
    "write_folds",
]

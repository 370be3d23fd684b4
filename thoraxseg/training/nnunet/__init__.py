"""nnU-Net 2 trained through its own package: from a data set to its model folders and to native checkpoints.

nnU-Net 1 is for reading only: nnunetv2 does not train it.
"""

from thoraxseg.training.nnunet.recipe import CONFIGURATIONS, PLANNERS, RECIPES, NnunetOptions, Recipe
from thoraxseg.training.nnunet.run import Trained, train_nnunet

__all__ = ["CONFIGURATIONS", "PLANNERS", "RECIPES", "NnunetOptions", "Recipe", "Trained", "train_nnunet"]

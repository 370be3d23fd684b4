"""A prepared image through a network: slices or windows behind one interface, and the doubt of the answer."""

from thoraxseg.inference.predictor import Predictor, load_predictor
from thoraxseg.inference.uncertainty import Quantity, predictive_entropy

__all__ = ["Predictor", "Quantity", "load_predictor", "predictive_entropy"]

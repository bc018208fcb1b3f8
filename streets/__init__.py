"""Synthetic driving video: every frame labelled, with true optical flow, in the Cityscapes folder layout."""
from streets.generate import StreetFrame, StreetSettings, ensure_streets, render_sequence, write_flow

__all__ = ["StreetFrame", "StreetSettings", "ensure_streets", "render_sequence", "write_flow"]

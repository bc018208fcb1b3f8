"""Synthetic driving video with every frame labelled and true optical flow, in the Cityscapes folder layout."""

from streets.generate import StreetFrame, StreetSettings, ensure_streets, render_sequence, write_flow

__all__ = ["StreetFrame", "StreetSettings", "ensure_streets", "render_sequence", "write_flow"]

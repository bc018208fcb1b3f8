"""Synthetic driving video with every frame labelled and true optical flow, in the Cityscapes folder layout."""

from dataloaders.synthetic.generate import (
    StreetFrame,
    StreetSettings,
    ensure_streets,
    read_flow,
    render_sequence,
    write_flow,
)

__all__ = ["StreetFrame", "StreetSettings", "ensure_streets", "read_flow", "render_sequence", "write_flow"]

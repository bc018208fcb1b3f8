"""Segmenting video: `from inference import VideoSegmenter`."""
from inference.stream import CameraGroup, VideoSegmenter

__all__ = ["CameraGroup", "VideoSegmenter"]

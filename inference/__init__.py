"""Segmenting video: `from inference import VideoSegmenter, segment`."""
from inference.segment import Result, Segmentation, segment
from inference.stream import CameraGroup, VideoSegmenter

__all__ = ["CameraGroup", "Result", "Segmentation", "VideoSegmenter", "segment"]

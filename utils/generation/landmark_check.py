"""A check of generated images by a face detector: how many faces it finds, and how far these are from the template."""

import cv2
import numpy as np

from utils.data.alignment import TEMPLATE, FaceDetector

BORDER = 28  # pixels of black around an image: faces that fill it are not found without
NAMES = ("faces", "landmark_error")


class LandmarkCheck:
    """MTCNN on single images, on the CPU."""

    def __init__(self):
        self.detector = FaceDetector()

    def __call__(self, image: np.ndarray) -> dict[str, float]:
        """(112, 112, 3) uint8 RGB -> {"faces": number of faces found, "landmark_error": ...}.

        The error is the mean distance in pixels of the five landmarks of the largest face to those of the template;
        it is missing where no face is found.
        """
        faces = self.detector.faces(cv2.copyMakeBorder(image, *4 * [BORDER], cv2.BORDER_CONSTANT))
        if not faces:
            return {"faces": 0.0}
        error = np.linalg.norm(faces[0] - BORDER - TEMPLATE, axis=1).mean()  # (5, 2) -> (5,) -> number
        return {"faces": float(len(faces)), "landmark_error": float(error)}

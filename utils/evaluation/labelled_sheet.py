"""A sheet of images with labels for its rows and columns."""

import cv2
import numpy as np

from utils.data.images import SIDE, contact_sheet

FONT, SCALE, INK = cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0)
MARGIN, LINE = 6, 24  # pixels: the margin around a label, and the height of the line of column labels


def labelled_sheet(rows: list, row_labels: list[str], column_labels: list[str]) -> np.ndarray:
    """Rows of (112, 112, 3) uint8 RGB images -> one picture with a label to the left of each row and above each column.

    Column labels should fit 112 pixels, about 15 letters; the margin on the left is as wide as its widest label.
    """
    sheet = contact_sheet(rows)
    left = 2 * MARGIN + max(text_width(label) for label in row_labels)
    picture = np.full((LINE + len(sheet), left + sheet.shape[1], 3), 255, np.uint8)
    picture[LINE:, left:] = sheet
    for number, label in enumerate(row_labels):
        write(picture, label, MARGIN, LINE + number * SIDE + SIDE // 2)
    for number, label in enumerate(column_labels):
        write(picture, label, left + number * SIDE + (SIDE - text_width(label)) // 2, LINE - MARGIN - 2)
    return picture


def text_width(label: str) -> int:
    """Width of a label in pixels."""
    return cv2.getTextSize(label, FONT, SCALE, 1)[0][0]


def write(picture: np.ndarray, label: str, x: int, y: int) -> None:
    cv2.putText(picture, label, (x, y), FONT, SCALE, INK, 1, cv2.LINE_AA)

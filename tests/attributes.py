"""An estimator of attributes on the demo encoder, made without training: its values are those of a random head."""

import torch
from paths import Demo

from models.attribute_estimator import Attribute, EncoderMaps, save_attribute_estimator
from models.iresnet import load_face_encoder

SMILE = Attribute("smile", "", 0.0, 1.0, 0.1, 0.9)
LIGHT = Attribute("light_azimuth", "degrees", -100.0, 100.0, 20.0, 0.8)


def write_estimator(path, encoder_path=Demo.encoder):
    """Write its weights; it knows SMILE and LIGHT."""
    inputs = EncoderMaps(load_face_encoder(Demo.encoder))(torch.zeros(1, 3, 112, 112)).shape[1]
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(inputs, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    save_attribute_estimator(path, head, [SMILE, LIGHT], encoder_path)
    return path

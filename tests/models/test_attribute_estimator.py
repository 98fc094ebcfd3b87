"""An estimator of attributes: its file, its gradients, and AttrOP's targets."""

import pytest
import torch
from attributes import LIGHT, SMILE, write_estimator
from paths import Demo
from second_encoder import write_second_encoder

from models.attribute_estimator import attribute_target, load_attribute_estimator
from models.errors import UserError


@pytest.fixture(scope="module")
def estimator(encoder, tmp_path_factory):
    path = write_estimator(tmp_path_factory.mktemp("estimator") / "attributes.pth")
    return load_attribute_estimator(path, encoder, Demo.encoder)


def test_it_gives_each_attribute_of_each_image_with_gradients_to_the_images(estimator):
    images = torch.rand(3, 3, 112, 112, requires_grad=True)
    values = estimator(images)
    assert (values.shape, values.dtype) == ((3, 2), torch.float32)
    values.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(not parameter.requires_grad for parameter in estimator.parameters())


def test_the_file_says_what_the_attributes_are(estimator):
    assert estimator.attributes == (SMILE, LIGHT)


def test_a_target_has_the_estimators_error_as_its_tolerance_and_its_weight_from_the_range(estimator):
    smile, light = attribute_target(estimator, "smile", 0.5), attribute_target(estimator, "light_azimuth", -30, 5)
    assert (smile.tolerance, light.tolerance) == (0.1, 5)
    assert (smile.weight, light.weight) == (100, 0.5)
    values = torch.tensor([[0.1, 20.0]])
    assert light.penalty(light.read(values)).item() == 50
    assert smile.penalty(smile.read(values)).item() == pytest.approx(0.4)


def test_an_unknown_attribute_and_a_value_out_of_range_are_refused(estimator):
    with pytest.raises(UserError, match=r"beard: .* knows smile, light_azimuth"):
        attribute_target(estimator, "beard", 1)
    with pytest.raises(UserError, match=r"light_azimuth 120: .* -100 to 100 degrees"):
        attribute_target(estimator, "light_azimuth", 120)
    attribute_target(estimator, "light_azimuth", 101)  # the ends of a range are rounded where they are shown


def test_files_of_another_encoder_or_another_kind_are_refused(encoder, tmp_path):
    path, other = write_estimator(tmp_path / "a.pth"), write_second_encoder(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"another face encoder than .*other\.pth"):
        load_attribute_estimator(path, encoder, other)
    for file in (Demo.encoder, Demo.pose):
        with pytest.raises(UserError, match="not an attribute estimator"):
            load_attribute_estimator(file, encoder, Demo.encoder)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["0.weight"][0, 0] = torch.nan
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="NaN or infinite"):
        load_attribute_estimator(tmp_path / "nan.pth", encoder, Demo.encoder)
    del content["state_dict"]["2.bias"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"missing 2\.bias"):
        load_attribute_estimator(tmp_path / "less.pth", encoder, Demo.encoder)

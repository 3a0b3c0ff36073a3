"""The exported encoders give the same features as the network."""

import numpy as np
import pytest
import torch

from septet.lightning_modules.mscmnet import MSCMNet
from septet.lightning_modules.mscmnet.export import export_onnx


@pytest.fixture
def module():
    torch.manual_seed(0)
    model = MSCMNet(12, (96, 48), trunk="micro", residual=True)
    model.configure_model()
    return model


@pytest.mark.filterwarnings("ignore")
def test_onnx_parity_with_any_batch(module, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    paths = export_onnx(module, tmp_path, image_size=(96, 48))
    assert set(paths) == {"encode_visible", "encode_infrared"}
    images = torch.randn(3, 3, 96, 48)
    for name, path in paths.items():
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = module.net.eval().embed(images, name.removeprefix("encode_")).bn.numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_another_image_size(module, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="built for"):
        export_onnx(module, tmp_path, image_size=(64, 48))

